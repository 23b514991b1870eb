"""Ways to get BPF programs into the kernel."""
