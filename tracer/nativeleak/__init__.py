"""nativeleak: what is eating a process's native memory, on a live production machine."""

__version__ = "0.1.0"
