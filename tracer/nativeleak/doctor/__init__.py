"""Checks what works on this machine and how to fix the rest, by trying it."""
