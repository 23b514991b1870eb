"""Dynamic types of C++ objects: by the table of virtual functions that their first word points at.

Scope: classes with virtual functions and run-time type information, in stripped programs too. Plain structures, vectors
and strings have no type at run time.

Source: Itanium C++ ABI, 2.5 and 2.9: before a virtual table stand the offset to the complete object and the type's
``type_info``, whose second word is the mangled name.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nativeleak.heaps.memory import Flags, HeapMemory, Words
from nativeleak.process.mapped import map_file
from nativeleak.process.namespaces import open_regular
from nativeleak.process.procfs import PAGE_BYTES, MapEntry
from nativeleak.symbols.demangle import demangle

_NAME_BYTES: Final = 512
_FIRST: Final = tuple(bytes([each]) for each in b"123456789NSIPK")
_MAX_PAGES: Final = 4096
_MAX_OFFSET_TO_TOP: Final = 1 << 20
_MAX_TABLES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Classes:
    """Types of blocks.

    Attributes:
        names: Demangled.
        of_blocks: Place of each block's type in ``names``; -1 for none.
    """

    names: tuple[str, ...]
    of_blocks: npt.NDArray[np.int32]


def find_classes(memory: HeapMemory, maps: Sequence[MapEntry], first_words: Words) -> Classes:
    """Types of blocks by their first words.

    Args:
        memory: Of the process.
        maps: Its mappings.
        first_words: Of the blocks.
    """
    files = [(entry.start, entry.end) for entry in maps if _holds_tables(entry)]
    lows = np.array([low for low, _ in files], np.uint64)
    highs = np.array([high for _, high in files], np.uint64)
    is_candidate = _inside(first_words, lows, highs) & (first_words & np.uint64(7) == 0)
    tables, inverse = np.unique(first_words[is_candidate], return_inverse=True)
    of_blocks = np.full(len(first_words), -1, np.int32)
    tables = tables[:_MAX_TABLES]
    reading = _Tables(memory, maps)
    try:
        found = ((index, _name(reading, table)) for index, table in enumerate(tables.tolist()))
        mangled = {index: name for index, name in found if name is not None}
    finally:
        reading.close()
    names = sorted({demangled(name) for name in mangled.values()})
    place_of = {name: place for place, name in enumerate(names)}
    of_tables = np.full(max(int(inverse.max(initial=0)) + 1, 1), -1, np.int32)
    for index, name in mangled.items():
        of_tables[index] = place_of[demangled(name)]
    of_blocks[is_candidate] = of_tables[inverse.reshape(-1)]
    return Classes(tuple(names), of_blocks)


def demangled(name: str) -> str:
    """A type's name as in the source: ``N3app7SessionE`` is ``app::Session``."""
    return demangle(f"_ZTI{name}").removeprefix("typeinfo for ") if name[:1] != "*" else name


def _holds_tables(entry: MapEntry) -> bool:
    is_file = entry.inode != 0 and entry.path.startswith("/") and not entry.path.startswith("/memfd:")
    return is_file and entry.perms[0] == "r" and not entry.executable


def _inside(values: Words, lows: Words, highs: Words) -> Flags:
    if not len(lows):
        return np.zeros(len(values), np.bool_)
    index = np.searchsorted(lows, values, side="right").astype(np.int64) - 1
    return np.asarray((index >= 0) & (values < highs[np.clip(index, 0, None)]), np.bool_)


class _Tables:
    """Reads tables and names of types: from memory where a page is there, else from the file behind the mapping."""

    def __init__(self, memory: HeapMemory, maps: Sequence[MapEntry]) -> None:
        self._memory = memory
        self._maps = [entry for entry in maps if _holds_tables(entry)]
        self._starts = [entry.start for entry in self._maps]
        self._pages: dict[int, bytes] = {}
        self._files: dict[str, int] = {}

    def close(self) -> None:
        """Close the files."""
        for fd in self._files.values():
            if fd >= 0:
                os.close(fd)

    def holds(self, address: int) -> bool:
        """Whether tables can lie there."""
        return self._entry(address) is not None

    def word(self, address: int) -> int:
        """A word; 0 where it cannot be read."""
        return int.from_bytes(self.data(address, 8).ljust(8, b"\0"), "little")

    def data(self, address: int, n_bytes: int) -> bytes:
        """Up to so many bytes."""
        data = b""
        while len(data) < n_bytes:
            offset = (address + len(data)) % PAGE_BYTES
            part = self._page(address + len(data) - offset)[offset : offset + n_bytes - len(data)]
            if not part:
                break
            data += part
        return data

    def _entry(self, address: int) -> MapEntry | None:
        index = bisect.bisect_right(self._starts, address) - 1
        return self._maps[index] if index >= 0 and address < self._maps[index].end else None

    def _page(self, page: int) -> bytes:
        if page not in self._pages:
            if len(self._pages) >= _MAX_PAGES:
                self._pages.clear()
            entry = self._entry(page)
            window = self._memory.window(page, page + PAGE_BYTES) if entry is not None else None
            if entry is not None and window is not None and not window.present:
                self._pages[page] = self._from_file(entry, page)
            else:
                self._pages[page] = window.words.tobytes() if window is not None else b""
        return self._pages[page]

    def _from_file(self, entry: MapEntry, page: int) -> bytes:
        if entry.path not in self._files:
            try:
                self._files[entry.path] = open_regular(map_file(self._memory.pid, entry.start, entry.end))
            except OSError:
                self._files[entry.path] = -1
        fd = self._files[entry.path]
        return os.pread(fd, PAGE_BYTES, entry.offset + page - entry.start) if fd >= 0 else b""


def _name(tables: _Tables, table: int) -> str | None:
    """Mangled name of the type of a table; None where there is no such table."""
    offset, info = tables.word(table - 16), tables.word(table - 8)
    if offset and not (1 << 64) - _MAX_OFFSET_TO_TOP < offset < 1 << 64:
        return None
    if info % 8 or not tables.holds(info):
        return None
    text = tables.word(info + 8)
    if not tables.holds(text):
        return None
    raw = tables.data(text, _NAME_BYTES).split(b"\0", 1)[0].lstrip(b"*")
    if raw[:1] not in _FIRST or not raw or not all(33 <= byte < 127 for byte in raw):
        return None
    return raw.decode("ascii")
