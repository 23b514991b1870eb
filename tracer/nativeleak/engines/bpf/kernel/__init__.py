"""What talks to the kernel and knows no trace: programs, maps, probes, features."""
