"""What has to be known of a runtime to read its names on a stack: the form of the table that each runtime fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        works: Purposes that a function further out shows: the work that was under way. They count before ``purposes``
            of other names than ``places``.
        places: Purposes that stay what they are, whatever work was under way.
        loading: What the runtime and its class library do once for each piece of code, at its first use, and the
            functions that show it, in the runtime's library or in the class library.
        tuning: A function that makes code for one caller, and the callers of which each piece of code has one: together
            they are of ``loading``, by the name of its last row.
        linking: Those of ``loading`` that code of a class needs again, where it is loaded again.
        bounded: Purposes whose memory has a bound, so that they do not leak by themselves, and what bounds it: ``code``
            for the code that is loaded.
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
    works: Kinds = ()
    places: frozenset[str] = frozenset()
    loading: Kinds = ()
    tuning: tuple[Pattern, Pattern] | None = None
    linking: frozenset[str] = frozenset()
    bounded: Mapping[str, str] = field(default_factory=dict)
