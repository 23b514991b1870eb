"""Tables from which the BPF side unwinds native stacks: made from a file's CFI, packed, kept by build id. x86-64 only."""
