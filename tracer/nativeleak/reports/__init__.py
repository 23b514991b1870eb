"""Reports made from a recording: text, JSON, folded stacks, an HTML page."""
