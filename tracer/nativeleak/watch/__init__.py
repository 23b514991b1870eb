"""The resident memory of a process over time, without tracing: lines that grow, sizes of blocks that grow, alarms."""
