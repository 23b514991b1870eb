"""Files that people have at hand: recognised by their content, read by the grammar of their format, told in words."""
