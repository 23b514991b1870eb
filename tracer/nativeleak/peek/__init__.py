"""What is inside a range of a process's memory, read while the process runs."""
