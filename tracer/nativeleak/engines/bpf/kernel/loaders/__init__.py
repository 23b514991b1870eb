"""Ways to get BPF programs into the kernel."""

from typing import Final

BCC_LIBRARY: Final = "libbcc.so.0"
"""File of BCC's library; here, because its name is all that the recorder needs of the compiler."""
