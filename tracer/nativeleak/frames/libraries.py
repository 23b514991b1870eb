"""Which code is a library's: the table that comes with the program, and what users add to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Final

from nativeleak.frames.display import JAVA, bare
from nativeleak.frames.library_table import LIBRARIES, Interpreter, Library
from nativeleak.model import Frame

OWN: Final = "!"
"""In front of a user's pattern: what it matches is the program's, whatever the table says."""


@dataclass(frozen=True, slots=True)
class Libraries:
    """Libraries of which no function is the answer where a function of the program stands above it.

    Attributes:
        patterns: What the user added. A pattern is compared with the file name of a frame's module, and with its
            function, Java's with the package: ``libacme*.so*``, ``com.acme.framework.*``, ``acme::*``. ``*``, ``?`` and
            ``[...]`` are those of the shell. With ``!`` in front it takes back what the table says.
        table: Rows that are compared one after the other.
    """

    patterns: tuple[str, ...] = ()
    table: tuple[Library, ...] = LIBRARIES
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.patterns, id(self.table))))

    def __hash__(self) -> int:
        return self._hash

    def extended(self, patterns: Iterable[str]) -> Libraries:
        """With more of the user's patterns, which go before those it has."""
        return Libraries((*patterns, *self.patterns), self.table)

    def of_user(self, frame: Frame) -> bool | None:
        """True: a library's, by a pattern of the user; False: the program's; None: no pattern of theirs matches."""
        if not self.patterns:
            return None
        return next((own for own, pattern in _compiled(self.patterns) if _matches(pattern, frame)), None)

    def find(self, frame: Frame) -> Library | None:
        """The row of the table that a frame belongs to, None where it belongs to none."""
        return _find(self, frame.function, frame.module, frame.kind in JAVA)


BUILT_IN: Final = Libraries()


@lru_cache(16)
def _compiled(patterns: tuple[str, ...]) -> tuple[tuple[bool, re.Pattern[str]], ...]:
    return tuple((not each.startswith(OWN), re.compile(translate(each.removeprefix(OWN)))) for each in patterns)


def _matches(pattern: re.Pattern[str], frame: Frame) -> bool:
    if frame.module is not None and pattern.match(frame.module):
        return True
    return pattern.match(frame.function if frame.kind in JAVA else bare(frame.function)) is not None


@lru_cache(1 << 16)
def _find(libraries: Libraries, function: str, module: str | None, is_java: bool) -> Library | None:
    if is_java:
        return next((row for row in libraries.table if row.packages and function.startswith(row.packages)), None)
    name = bare(function)
    for row in libraries.table:
        if row.modules is not None and module is not None and row.modules.fullmatch(module):
            return row
        if row.functions is not None and row.functions.match(name) and not _is_extension(module):
            return row
    return None


def _is_extension(module: str | None) -> bool:
    """Modules that people write against an interpreter: its functions are not found in them by name."""
    return module is not None and (module.endswith(".node") or ".cpython-" in module or ".abi3." in module)


__all__ = ["BUILT_IN", "OWN", "Interpreter", "Libraries", "Library"]
