"""The report as one HTML file: the answer in words, then what can be looked at.

The page loads nothing. Its text is escaped HTML, its figures are compressed columns, and its one script and its one
style are bundled from ``web/`` when the package is built. A content security policy allows these two by their hashes
and nothing else.
"""
