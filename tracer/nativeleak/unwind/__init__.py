"""Tables from which the BPF side unwinds native stacks: made from CFI, packed, kept by build id. x86-64 only."""
