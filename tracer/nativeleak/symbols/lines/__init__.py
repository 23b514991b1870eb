"""Source lines and inlined functions of native code, looked up when a report is made."""
