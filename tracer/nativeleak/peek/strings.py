"""Texts in memory with their counts; texts that differ in numbers alone count as one.

Scope: printable ASCII and UTF-8 of at least a given length, and the same in UTF-16 (little-endian). The table is
bounded: when it is full, texts seen once go, then those seen twice; counts are then too low by at most
``max_missed``.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final, NamedTuple

from nativeleak.peek.secrets import shorten

MAX_CHARS: Final = 160
_MAX_TEXTS: Final = 40_000
_NUMBER: Final = re.compile(r"\d+")
# Searching for text in UTF-16 among bytes of three kinds first is ten times as fast as by the pattern.
_KINDS: Final = bytes(0 if byte == 0 else 1 if 0x20 <= byte < 0x7F or byte == 9 else 2 for byte in range(256))
_MASKED_ONLY: Final = frozenset("* ")
# Names and versions hold digits that belong to them (utf8, HTTP/1.1, Order5): merged are numbers that stand alone, and
# long ones anywhere.
_ALONE: Final = re.compile(r"(?<![A-Za-z0-9_./])\d+(?![A-Za-z0-9_.])|\d{3,}|(?<=[-_#/=:])\d{2,}")
_CLASS: Final = re.compile(
    rb"(?<![A-Za-z0-9_$./;-])L?((?:[a-z][a-z0-9_]{0,40}[/.]){2,8}[A-Z][A-Za-z0-9_]{1,80}(?:\$[A-Za-z0-9_]{1,60})*)"
)


class Text(NamedTuple):
    """A text, or several that differ in numbers alone.

    Attributes:
        text: With ``#`` in place of numbers where they differ.
        n_seen: How often.
        address: Where it was seen first.
        encoding: ``ascii`` (UTF-8 too) or ``utf-16``.
    """

    text: str
    n_seen: int
    address: int
    encoding: str


class _Seen:
    __slots__ = ("address", "count", "encoding", "example", "varies")

    def __init__(self, example: str, address: int, encoding: str) -> None:
        self.example, self.address, self.encoding = example, address, encoding
        self.count, self.varies = 0, False


class StringCounter:
    """Counts texts.

    Args:
        min_chars: Shorter ones are passed over.

    Attributes:
        n_strings: All that were found.
        max_missed: Counts may be too low by as much.
        classes: Names of Java classes with their counts, with dots between packages.
    """

    def __init__(self, min_chars: int = 6) -> None:
        size = b"{%d,}" % min_chars
        self._narrow = re.compile(rb"[\t\x20-\x7e\x80-\xff]" + size)
        self._ascii = re.compile(rb"[\t\x20-\x7e]" + size)
        self._wide = re.compile(rb"(?:[\t\x20-\x7e]\x00)" + size)
        self._wide_kinds = b"\1\0" * min_chars
        self._seen: dict[str, _Seen] = {}
        self.n_strings = 0
        self.max_missed = 0
        self.classes: Counter[str] = Counter()

    def add(self, address: int, data: bytes) -> None:
        """Count the texts of some bytes."""
        for found in self._narrow.finditer(data):
            text = found[0]
            if b"/" in text or b"." in text:
                for name in _CLASS.finditer(text):
                    self.classes[name[1].replace(b"/", b".").decode("ascii")] += 1
            if text.isascii():
                self._count(address + found.start(), text[:MAX_CHARS].decode("ascii"), "ascii")
                continue
            try:
                self._count(address + found.start(), text.decode("utf-8")[:MAX_CHARS], "ascii")
            except UnicodeDecodeError:
                for part in self._ascii.finditer(text):
                    self._count(address + found.start() + part.start(), part[0][:MAX_CHARS].decode("ascii"), "ascii")
        if self._wide_kinds in data.translate(_KINDS):
            for found in self._wide.finditer(data):
                self._count(address + found.start(), found[0][: 2 * MAX_CHARS : 2].decode("ascii"), "utf-16")
        if len(self.classes) > _MAX_TEXTS:
            self.classes = Counter(dict(self.classes.most_common(_MAX_TEXTS // 2)))

    def most(self, n_most: int | None = None) -> list[Text]:
        """Texts by count, the longer first among equals."""
        texts = [
            Text(shape if seen.varies else seen.example, seen.count, seen.address, seen.encoding)
            for shape, seen in self._seen.items()
        ]
        return sorted(texts, key=lambda text: (-text.n_seen, -len(text.text), text.address))[:n_most]

    @property
    def n_texts(self) -> int:
        """Different texts that the table holds."""
        return len(self._seen)

    def _count(self, address: int, text: str, encoding: str) -> None:
        text = shorten(text.strip()[:MAX_CHARS])
        if not text or _MASKED_ONLY.issuperset(text):
            return
        self.n_strings += 1
        shape = _ALONE.sub("#", text) if _NUMBER.search(text) else text
        seen = self._seen.get(shape)
        if seen is None:
            if len(self._seen) >= _MAX_TEXTS:
                self._make_room()
            seen = self._seen[shape] = _Seen(text, address, encoding)
        elif seen.example != text:
            seen.varies = True
        seen.count += 1

    def _make_room(self) -> None:
        """Drop the rarest texts; the source is lossy counting (Manku and Motwani, VLDB 2002)."""
        while len(self._seen) > _MAX_TEXTS // 2:
            self.max_missed += 1
            self._seen = {shape: seen for shape, seen in self._seen.items() if seen.count > self.max_missed}
