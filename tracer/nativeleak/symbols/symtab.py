"""The functions of one ELF symbol table, by address.

Scope: address to raw name. Kept small: twelve bytes a function; names, sizes and bindings are read from the file when
an address is looked up.
"""

from __future__ import annotations

import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import compress
from typing import Final, NamedTuple

from nativeleak.symbols.elf import PF_X, SHF_EXECINSTR, SYMBOL_BYTES, ElfError, ElfFile, SymbolArea

_STT_NOTYPE, _STT_FUNC, _STT_GNU_IFUNC = 0, 2, 10
_FUNCTION, _LABEL = 1, 2
# Meaning of an st_info byte: 1 a function, 2 a label that is a function if it is in code, 0 neither.
_KINDS: Final = bytes(
    _FUNCTION if info & 15 in (_STT_FUNC, _STT_GNU_IFUNC) else _LABEL if info & 15 == _STT_NOTYPE else 0
    for info in range(256)
)
_STB_LOCAL: Final = 0
_LOOK_BACK: Final = 64
"""Functions to check before an address for one that covers it (nested functions, labels inside a function)."""


class Symbol(NamedTuple):
    """The function at an address.

    Attributes:
        name: Name in the table, without a symbol version.
        offset: Bytes from the start of the function.
        sized: The table has the function's length, which covers the address; else the next function bounds it.
    """

    name: str
    offset: int
    sized: bool


class _Candidate(NamedTuple):
    rank: tuple[int, int, int, int, str]
    name: str
    size: int
    section: int


class SymbolTable:
    """Function symbols of one table of one file.

    Args:
        elf: The file; it must stay open while the table is in use.
        area: The table.

    Raises:
        ElfError: The file is damaged.
    """

    def __init__(self, elf: ElfFile, area: SymbolArea) -> None:
        self._elf = elf
        self._area = area
        self._starts, self._indexes = _functions(elf, area)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def n_bytes(self) -> int:
        """Memory of the table itself, bytes."""
        return len(self._starts) * (self._starts.itemsize + self._indexes.itemsize)

    def lookup(self, vaddr: int) -> Symbol | None:
        """The function at an address; None if no function covers it.

        A function with a length must cover the address; one without reaches to the next function in its section. Among
        several names of a function a global one comes first, then the one with the fewest leading underscores, then the
        shortest.

        Raises:
            ElfError: The file was changed since the table was read.
        """
        end = bisect_right(self._starts, vaddr)
        stop = max(0, end - _LOOK_BACK)
        label: Symbol | None = None
        while end > stop:
            start = self._starts[end - 1]
            begin = bisect_left(self._starts, start, 0, end)
            best = min(self._candidates(range(max(begin, stop), end), vaddr - start), default=None)
            if best is not None and best.size:
                return Symbol(best.name, vaddr - start, sized=True)
            if best is not None and label is None and self._same_section(best.section, vaddr):
                label = Symbol(best.name, vaddr - start, sized=False)
            end = begin
        return label

    def _candidates(self, places: range, offset: int) -> Iterator[_Candidate]:
        """The symbols at these positions that may cover ``offset``, counted from their common start."""
        for place in places:
            at = self._area.offset + self._indexes[place] * SYMBOL_BYTES
            entry = self._elf.source.read(at, SYMBOL_BYTES)
            size = int.from_bytes(entry[16:24], "little")
            if size and offset >= size:
                continue
            try:
                name = self._elf.name_at(self._area, int.from_bytes(entry[:4], "little"))
            except ElfError:
                continue
            name = name.partition("@")[0]
            if name and not name.startswith("$"):  # $x and $d mark code and data on aarch64
                yield _Candidate(_rank(name, entry[4], size), name, size, int.from_bytes(entry[6:8], "little"))

    def _same_section(self, index: int, vaddr: int) -> bool:
        sections = self._elf.sections
        if index < len(sections):
            return sections[index].vaddr <= vaddr < sections[index].vaddr + sections[index].n_bytes
        return any(
            each.flags & PF_X and each.vaddr <= vaddr < each.vaddr + each.memory_bytes for each in self._elf.loads
        )


def _functions(elf: ElfFile, area: SymbolArea) -> tuple[array.array[int], array.array[int]]:
    """Addresses of the defined functions, ascending, and their positions in the symbol table."""
    table = elf.source.read(area.offset, area.n_symbols * SYMBOL_BYTES)
    # Elf64_Sym: st_name (4 bytes), st_info (1), st_other (1), st_shndx (2), st_value (8), st_size (8).
    kinds = table[4::SYMBOL_BYTES].translate(_KINDS)
    section_of = array.array("H", table)[3 :: SYMBOL_BYTES // 2]
    value_of = array.array("Q", table)[1 :: SYMBOL_BYTES // 8]
    code = frozenset(index for index, section in enumerate(elf.sections) if section.flags & SHF_EXECINSTR)
    indexes = [
        index
        for index in compress(range(area.n_symbols), kinds)
        if section_of[index] and (kinds[index] == _FUNCTION or section_of[index] in code)
    ]
    indexes.sort(key=value_of.__getitem__)
    return array.array("Q", map(value_of.__getitem__, indexes)), array.array("I", indexes)


def _rank(name: str, info: int, size: int) -> tuple[int, int, int, int, str]:
    """Sort key of a name: lowest for the name that a person would use."""
    is_mangled = name.startswith(("_Z", "_R"))
    n_underscores = 0 if is_mangled else len(name) - len(name.lstrip("_"))
    doubt = (size == 0) * 2 + (info & 15 == _STT_NOTYPE)
    return doubt, info >> 4 == _STB_LOCAL, n_underscores, len(name), name
