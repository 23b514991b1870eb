"""Names for addresses: ELF symbol tables, debug files, demangling, perf maps."""
