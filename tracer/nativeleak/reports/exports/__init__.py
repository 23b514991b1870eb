"""Reports in the formats of other tools, one module a format. Each writes every site and computes nothing."""
