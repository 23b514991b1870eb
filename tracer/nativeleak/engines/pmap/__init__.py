"""Address space by /proc/PID/smaps, read again and again: which region grows, without rights and without stacks."""
