"""Resident memory of a process, line by line, without tracing."""
