"""What the target process is: procfs, namespaces, mapped objects, threads, residency. Parsers take text."""
