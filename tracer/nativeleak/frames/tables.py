"""What has to be known of a runtime to read its names on a stack: the form of the table that each runtime fills in."""

from __future__ import annotations

from dataclasses import dataclass

from nativeleak.frames.patterns import Pattern

Kinds = tuple[tuple[str, Pattern], ...]
"""Kind of memory, and the whole names of functions that show it."""


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeFrames:
    """Names that a runtime and its class library bring to stacks.

    Attributes:
        library: File name of the runtime's own library.
        launchers: Beginnings of the file names of libraries that only start it.
        requests: What the program asks the runtime for, and the functions of its library that serve the request: what
            they allocate belongs to the program, also where no frame of the program is on the stack. The first match
            counts.
        chores: Functions of its library that work for the runtime itself, whoever's call made it begin.
        own: Functions of its library that take memory for the runtime itself, also to serve a request.
        allocators: Matches the whole name of a function that only passes a request for memory on; in the runtime and
            in the class library. A verbose regular expression.
        passing: Matches the whole name of a function that everything passes through.
        kinds: Kinds of memory that functions of the runtime and its class library show.
        purposes: What the runtime uses its own native memory for, and the functions that show it.
    """

    library: str
    launchers: tuple[str, ...] = ()
    requests: Kinds = ()
    chores: Pattern | None = None
    own: Pattern | None = None
    allocators: str = ""
    passing: Pattern | None = None
    kinds: Kinds = ()
    purposes: Kinds = ()
