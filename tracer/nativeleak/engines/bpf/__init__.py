"""The BPF engine: prebuilt CO-RE object, probes, kernel maps."""
