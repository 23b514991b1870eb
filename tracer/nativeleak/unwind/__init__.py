"""Tables for unwinding native stacks in BPF: made from CFI, packed, cached by build id. x86-64 only."""
