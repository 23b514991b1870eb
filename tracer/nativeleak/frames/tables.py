"""What has to be known of a runtime to read its names on a stack: the form of the table that each runtime fills in."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeFrames:
    """Names that a runtime and its class library bring to stacks.

    Attributes:
        library: File name of the runtime's own library.
        requests: Beginnings of the names of its functions by which the program asks for memory: what they allocate
            belongs to the program.
        allocators: Matches the whole name of a function that only passes a request for memory on; in the runtime and
            in the class library. A verbose regular expression.
        purposes: What the runtime uses its own native memory for, and the functions that show it; the first match
            counts.
    """

    library: str
    requests: tuple[str, ...] = ()
    allocators: str = ""
    purposes: tuple[tuple[str, re.Pattern[str]], ...] = ()
