"""Outstanding memory: heap totals per site, and the interval map of address space."""
