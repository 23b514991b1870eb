"""Names of holders: what a word outside of the allocators belongs to.

Scope: one label a variable, a thread, a region. Where a file has no names for its data, the address counted from the
file's start stands for the name, and neighbours are one label.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from nativeleak.heaps.memory import Words
from nativeleak.holders.data_symbols import DataSymbols, read_data_symbols
from nativeleak.holders.places import ANONYMOUS, GLOBAL, SHARED_MEMORY, STACK, Place
from nativeleak.holders.table import Blocks
from nativeleak.process.procfs import MapEntry
from nativeleak.symbols.demangle import demangle

_NEAR_BYTES: Final = 16
_MIN_ARRAY: Final = 16
_MAX_UNNAMED: Final = 1 << 16  # labels of words without a variable; beyond, pages
_PAGE: Final = np.uint64(~0xFFF & (1 << 64) - 1)
_WORD: Final = np.uint64(~7 & (1 << 64) - 1)


class Label(NamedTuple):
    """A holder.

    Attributes:
        kind: See ``places``; a source of edges brings its own.
        name: For people: ``g_sessions in app``, ``thread worker-1``.
        detail: More of it: the region's addresses.
    """

    kind: str
    name: str
    detail: str = ""


class Labels:
    """Labels of one process by number.

    Args:
        pid: The process.
        maps: Its mappings.
    """

    def __init__(self, pid: int, maps: Sequence[MapEntry]) -> None:
        self._pid = pid
        self._entries: dict[str, list[MapEntry]] = {}
        for entry in maps:
            if entry.inode:
                self._entries.setdefault(entry.path, []).append(entry)
        self._symbols: dict[str, DataSymbols] = {}
        self._numbers: dict[tuple[object, ...], int] = {}
        self._labels: list[Label] = []
        self._unnamed: dict[int, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> Label:
        return self._labels[number]

    def number(self, label: Label) -> int:
        """The number of a label, a new one for one not seen yet."""
        key = tuple(label)
        if key not in self._numbers:
            self._numbers[key] = len(self._labels)
            self._labels.append(label)
        return self._numbers[key]

    def of(self, place: Place, addresses: Words) -> Blocks:
        """The label of each address of a place."""
        if place.kind == GLOBAL and place.name.startswith("/"):
            return self._variables(place.name, addresses)
        name, detail = place.name, f"{place.start:#x}-{place.end:#x}"
        if place.kind == STACK:
            name, detail = f"thread {name}", ""
        elif place.kind == ANONYMOUS and not name:
            name = f"anonymous memory at {place.start:#x}"
        elif place.kind != SHARED_MEMORY:
            detail = ""  # one label for all parts of what has a name
        return np.full(len(addresses), self.number(Label(place.kind, name, detail)), np.uint32)

    def symbols(self, path: str) -> DataSymbols:
        """Variables of a mapped file."""
        if path not in self._symbols:
            self._symbols[path] = read_data_symbols(self._pid, self._entries[path])
        return self._symbols[path]

    def _variables(self, path: str, addresses: Words) -> Blocks:
        symbols, module = self.symbols(path), os.path.basename(path)  # noqa: PTH119 - a path of the target
        index = symbols.look(addresses)
        unnamed = addresses & (_WORD if len(self._unnamed) < _MAX_UNNAMED else _PAGE)
        keys = np.where(index >= 0, index, -1 - unnamed.astype(np.int64))
        values, inverse = np.unique(keys, return_inverse=True)
        numbers = [self._variable(path, module, symbols, value) for value in values.tolist()]
        return np.asarray(np.array(numbers, np.uint32)[inverse.reshape(-1)], np.uint32)

    def _variable(self, path: str, module: str, symbols: DataSymbols, key: int) -> int:
        number = self._numbers.get((path, key))
        if number is None:
            number = self._numbers[path, key] = len(self._labels)
            if key >= 0:
                name = demangle(symbols.names[key])
                self._labels.append(Label(GLOBAL, f"{name} in {module}"))
            else:
                address = -1 - key
                self._unnamed[number] = path, address
                self._labels.append(Label(GLOBAL, f"{module}+{address - symbols.bias:#x}"))
        return number

    def kinds(self) -> list[str]:
        """The kind of each label by its number."""
        return [label.kind for label in self._labels]

    def join_neighbours(self) -> Blocks:
        """The label of each label after words without a variable that are an array together were made one."""
        joined = np.arange(max(len(self._labels), 1), dtype=np.uint32)
        array: list[int] = []
        last = "", 0
        for number, place in sorted(self._unnamed.items(), key=lambda item: item[1]):
            if place[0] != last[0] or place[1] - last[1] > _NEAR_BYTES:
                _join(joined, array)
                array = []
            array.append(number)
            last = place
        _join(joined, array)
        return joined


def _join(joined: Blocks, array: Sequence[int]) -> None:
    """Few neighbours are as likely variables of their own."""
    if len(array) >= _MIN_ARRAY:
        joined[list(array)] = array[0]
