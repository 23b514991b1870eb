"""Names of global variables: the data symbols of the files that a process has mapped.

Scope: 64-bit ELF files, their full symbol table where there is one, else that of their debug file, else the exported
names. Variables of threads are left out: their addresses count from elsewhere.

Source: elf(5), Elf64_Sym.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

import numpy as np
import numpy.typing as npt

from nativeleak.heaps.memory import Places, Words
from nativeleak.process.mapped import map_file
from nativeleak.process.namespaces import open_in_root, open_regular
from nativeleak.process.procfs import PAGE_BYTES, MapEntry
from nativeleak.symbols.debugfiles import debug_openers, find_debug_file, read_debugdata
from nativeleak.symbols.elf import ElfError, ElfFile, FileSource, SymbolArea

_SYMBOL: Final = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_OBJECT, _FUNCTION = 1, 2
_MAX_STRINGS_BYTES: Final = 64 << 20
_MAX_NAME_BYTES: Final = 1 << 14
_LOCAL: Final = 0


class Names(Sequence[str]):
    """Names of symbols, each taken from the table of strings when it is asked for.

    Args:
        strings: The table.
        offsets: Of each name in it.
    """

    def __init__(self, strings: bytes = b"", offsets: npt.NDArray[np.uint32] | None = None) -> None:
        self._strings = strings
        self._offsets = np.zeros(0, np.uint32) if offsets is None else offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = int(self._offsets[index])
        end = self._strings.find(b"\0", at, at + _MAX_NAME_BYTES)
        return self._strings[at : end if end >= 0 else at].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class DataSymbols:
    """Variables of one mapped file in address order.

    Attributes:
        path: Of the file, as the target sees it.
        bias: Address in the process of the file's virtual address 0.
        starts: Addresses in the process.
        ends: First addresses behind them.
        names: As in the file, mangled.
    """

    path: str
    bias: int
    starts: Words
    ends: Words
    names: Names

    def look(self, addresses: Words) -> Places:
        """The variable of each address, -1 for none."""
        if not len(self.starts):
            return np.full(len(addresses), -1, np.int64)
        index = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        return np.where((index >= 0) & (addresses < self.ends[np.clip(index, 0, None)]), index, -1)


def read_data_symbols(pid: int, entries: Sequence[MapEntry]) -> DataSymbols:
    """Variables of the file behind some mappings; none where it cannot be read.

    Args:
        pid: The process.
        entries: All mappings of the file, in address order.
    """
    path = entries[0].path
    nothing = DataSymbols(path, entries[0].start, np.zeros(0, np.uint64), np.zeros(0, np.uint64), Names())
    try:
        elf = ElfFile(FileSource(_open(pid, entries)))
    except (OSError, ElfError):
        return nothing
    with elf:
        bias = _bias(elf, entries)
        if bias is None:
            return nothing
        try:
            return _read(pid, elf, path, bias)
        except (OSError, ElfError):
            return DataSymbols(path, bias, nothing.starts, nothing.ends, Names())


def read_function_symbols(pid: int, entries: Sequence[MapEntry], word: str) -> DataSymbols:
    """Functions of the file behind some mappings whose names as in the file hold a word; none where it has no names.

    Only the file's own full symbol table is read.
    """
    path = entries[0].path
    nothing = DataSymbols(path, entries[0].start, np.zeros(0, np.uint64), np.zeros(0, np.uint64), Names())
    try:
        with ElfFile(FileSource(_open(pid, entries))) as elf:
            bias, area = _bias(elf, entries), elf.symtab
            if bias is None or area is None or area.strings_bytes > _MAX_STRINGS_BYTES:
                return nothing
            strings = elf.source.read(area.strings_offset, area.strings_bytes)
            if word.encode() not in strings:
                return nothing
            return _table(elf, area, path, bias, _FUNCTION, word.encode())
    except (OSError, ElfError):
        return nothing


def _open(pid: int, entries: Sequence[MapEntry]) -> int:
    for entry in entries:
        try:
            return open_regular(map_file(pid, entry.start, entry.end))
        except OSError:
            continue
    if entries[0].deleted:
        raise FileNotFoundError(entries[0].path)  # the name may belong to another file by now
    return open_in_root(pid, entries[0].path)


def _bias(elf: ElfFile, entries: Sequence[MapEntry]) -> int | None:
    for entry in entries:
        for segment in elf.loads:
            if segment.offset // PAGE_BYTES * PAGE_BYTES == entry.offset:
                return entry.start - (segment.vaddr // PAGE_BYTES * PAGE_BYTES)
    return None


def _read(pid: int, elf: ElfFile, path: str, bias: int) -> DataSymbols:
    if elf.symtab is not None:
        return _table(elf, elf.symtab, path, bias)
    debug = find_debug_file(elf, path, debug_openers(pid)) or read_debugdata(elf)
    if debug is not None:
        with debug:
            if debug.symtab is not None:
                found = _table(debug, debug.symtab, path, bias)
                if len(found.starts):
                    return found
    if elf.dynsym is None:
        raise ElfError("no symbol table")
    return _table(elf, elf.dynsym, path, bias)


def _table(
    elf: ElfFile,
    area: SymbolArea,
    path: str,
    bias: int,
    kind: int = _OBJECT,
    word: bytes = b"",
) -> DataSymbols:
    if area.strings_bytes > _MAX_STRINGS_BYTES:
        raise ElfError(f"reading names failed: {area.strings_bytes} bytes, at most {_MAX_STRINGS_BYTES} are read")
    strings = elf.source.read(area.strings_offset, area.strings_bytes)
    table = np.frombuffer(elf.source.read(area.offset, area.n_symbols * _SYMBOL.itemsize), _SYMBOL)
    kinds = table["info"] & 15
    table = table[(kinds == kind) & (table["section"] != 0) & (table["size"] > 0)]
    if word:
        wanted = [word in strings[at : strings.find(b"\0", at)] for at in table["name"].tolist()]
        table = table[np.array(wanted, np.bool_)]
    # Of several names of one address the exported one; of nested ones the first.
    order = np.lexsort((table["info"] >> 4 == _LOCAL, table["value"]))
    table = table[order]
    is_first = np.ones(len(table), np.bool_)
    is_first[1:] = table["value"][1:] != table["value"][:-1]
    table = table[is_first]
    starts = table["value"].astype(np.uint64) + np.uint64(bias % (1 << 64))
    names = Names(strings, table["name"].copy())
    return DataSymbols(path, bias, starts, starts + table["size"].astype(np.uint64), names)
