"""Patterns that are compiled when they are first used: a recorder reads the tables of names and matches few of them."""

from __future__ import annotations

import re
from collections.abc import Callable


class Pattern:
    """A regular expression with the methods of ``re.Pattern`` that tables need.

    Args:
        source: The expression.
        flags: Of ``re.compile``.

    Raises:
        re.error: At the first use, where the expression is none.
    """

    __slots__ = ("_flags", "_source", "fullmatch", "match", "search")

    match: Callable[[str], re.Match[str] | None]
    fullmatch: Callable[[str], re.Match[str] | None]
    search: Callable[[str], re.Match[str] | None]

    def __init__(self, source: str, flags: int = 0) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> object:
        if name not in ("match", "fullmatch", "search"):
            raise AttributeError(name)
        compiled = re.compile(self._source, self._flags)
        self.match, self.fullmatch, self.search = compiled.match, compiled.fullmatch, compiled.search
        return getattr(self, name)
