"""An object's code by address, and the functions that its calls and jumps through tables of pointers go to.

A call to another function goes by way of the procedure linkage table or through a word of the global offset table; the
relocation of that word has the function's name, or its address where it is in the same object.

Scope: x86-64. Nothing here is believed: what lies outside of the file has no code and no name.
Source: ELF gABI, "Dynamic Section" and "Relocation"; System V ABI for x86-64, table 4.10.
"""

from __future__ import annotations

import struct
from functools import cached_property
from typing import Final, NamedTuple

from nativeleak.symbols.elf import PF_X, PT_DYNAMIC, SYMBOL_BYTES, ElfError, ElfFile, SymbolArea

_RELA: Final = struct.Struct("<QQq")  # Elf64_Rela
_SYMBOL: Final = struct.Struct("<IBBHQQ")  # Elf64_Sym
_STT_FUNC, _STT_GNU_IFUNC = 2, 10
_STB_LOCAL: Final = 0
_MAX_SYMBOLS: Final = 1 << 16
"""Of one table; of more none is known by its address: so many take 12 MB for as long as the object is analysed."""
_DYN: Final = struct.Struct("<QQ")  # Elf64_Dyn
_DT_PLTRELSZ, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 7, 8, 23
_GLOB_DAT, _JUMP_SLOT, _RELATIVE, _64, _IRELATIVE = 6, 7, 8, 1, 37
_MAX_RELOCATION_BYTES: Final = 16 << 20
_MAX_DYNAMIC_BYTES: Final = 1 << 16
_PAGE: Final = 4096


class Callee(NamedTuple):
    """What a word of the global offset table leads to.

    Attributes:
        vaddr: Where this object defines the function; None where another does. By interposition that one may win all
            the same.
        name: Of the function; empty where it has none.
    """

    vaddr: int | None
    name: str


class Image:
    """The code of one object.

    Args:
        elf: The object; stays the caller's, and open while this is used.
    """

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self._pages: dict[int, bytes] = {}
        self._callees: dict[int, Callee] = {}
        self._names: dict[int, str] = {}
        self._resolvers: dict[int, int] = {}

    def read_code(self, vaddr: int, n_bytes: int) -> bytes:
        """Code from an address on; shorter where the segment ends, empty outside of code."""
        for segment in self.elf.loads:
            room = segment.vaddr + segment.file_bytes - vaddr
            if segment.flags & PF_X and segment.vaddr <= vaddr and room > 0:
                return self._read(vaddr - segment.vaddr + segment.offset, min(n_bytes, room))
        return b""

    def read_data(self, vaddr: int, n_bytes: int) -> bytes:
        """Bytes of any segment; empty where they are not all in the file."""
        offset = self.elf.vaddr_to_offset(vaddr)
        if offset is None:
            return b""
        data = self._read(offset, n_bytes)
        return data if len(data) == n_bytes else b""

    def callee_in_slot(self, vaddr: int) -> Callee:
        """The function that the loader writes the address of to this word; without a name where none is known."""
        index = self._relocations.get(vaddr)
        if index is None:
            # Which of the functions the program will have is known when it runs; all are the same to their callers.
            return Callee(None, self.name_at(self._resolvers.get(vaddr, -1)))
        if index <= 0:
            return Callee(-index, "")
        if index not in self._callees:
            self._callees[index] = self._read_symbol(index)
        return self._callees[index]

    def _read_symbol(self, index: int) -> Callee:
        area = self.elf.dynsym
        if area is None or index >= area.n_symbols:
            return Callee(None, "")
        try:
            symbol = self.elf.source.read(area.offset + index * SYMBOL_BYTES, SYMBOL_BYTES)
            name_at, info, _, section, value, _ = _SYMBOL.unpack(symbol)
            name = self.elf.name_at(area, name_at)
        except ElfError:
            return Callee(None, "")
        return Callee(value if section and info & 0xF == _STT_FUNC else None, name)

    def name_at(self, vaddr: int) -> str:
        """Name of the public function that begins at an address; empty where none does."""
        place = self._public.get(vaddr)
        if place is None:
            return ""
        if vaddr not in self._names:
            area, at = place
            try:
                self._names[vaddr] = self.elf.name_at(area, at).partition("@")[0]
            except ElfError:
                self._names[vaddr] = ""
        return self._names[vaddr]

    @cached_property
    def _public(self) -> dict[int, tuple[SymbolArea, int]]:
        """Address of each function that is no local one -> where its name is; of an IFUNC that of its resolver."""
        found: dict[int, tuple[SymbolArea, int]] = {}
        for area in (self.elf.dynsym, self.elf.symtab):
            if area is None or area.n_symbols > _MAX_SYMBOLS:
                continue
            data = self._read(area.offset, area.n_symbols * SYMBOL_BYTES)
            whole = data[: len(data) // SYMBOL_BYTES * SYMBOL_BYTES]
            for name_at, info, _, section, value, _ in _SYMBOL.iter_unpack(whole):
                if section and info & 0xF in (_STT_FUNC, _STT_GNU_IFUNC) and info >> 4 != _STB_LOCAL:
                    found.setdefault(value, (area, name_at))
        return found

    @cached_property
    def _relocations(self) -> dict[int, int]:
        """Address of a word -> index of its symbol, or minus the address that it is to hold."""
        found: dict[int, int] = {}
        for offset, n_bytes in self._relocation_tables():
            data = self._read(offset, min(n_bytes, _MAX_RELOCATION_BYTES))
            for word, info, addend in _RELA.iter_unpack(data[: len(data) // _RELA.size * _RELA.size]):
                kind = info & 0xFFFF_FFFF
                if kind == _RELATIVE and addend > 0:
                    found[word] = -addend
                elif kind == _IRELATIVE:
                    self._resolvers[word] = addend
                elif kind in (_GLOB_DAT, _JUMP_SLOT, _64) and not (kind == _64 and addend):
                    found[word] = info >> 32
        return found

    def _relocation_tables(self) -> list[tuple[int, int]]:
        """(file offset, bytes) of each table: by the dynamic segment; those of a static program by their section."""
        tags = self._dynamic_tags()
        if not tags:
            return [
                (each.offset, each.n_bytes) for each in self.elf.sections if each.name in (".rela.plt", ".rela.iplt")
            ]
        places = (
            (tags.get(_DT_RELA, -1), tags.get(_DT_RELASZ, 0)),
            (tags.get(_DT_JMPREL, -1), tags.get(_DT_PLTRELSZ, 0)),
        )
        offsets = [(self.elf.vaddr_to_offset(vaddr), n_bytes) for vaddr, n_bytes in places]
        return [(offset, n_bytes) for offset, n_bytes in offsets if offset is not None]

    def _dynamic_tags(self) -> dict[int, int]:
        tags: dict[int, int] = {}
        for segment in self.elf.segments:
            if segment.type == PT_DYNAMIC:
                data = self._read(segment.offset, min(segment.file_bytes, _MAX_DYNAMIC_BYTES))
                for tag, value in _DYN.iter_unpack(data[: len(data) // _DYN.size * _DYN.size]):
                    if tag == 0:
                        break
                    tags.setdefault(tag, value)
        return tags

    def _read(self, offset: int, n_bytes: int) -> bytes:
        """Bytes of the file, as many as there are; small reads go by whole pages, which are kept."""
        n_bytes = min(n_bytes, self.elf.source.size - offset)
        if offset < 0 or n_bytes <= 0:
            return b""
        try:
            if n_bytes > _PAGE:
                return self.elf.source.read(offset, n_bytes)
            first, last = offset // _PAGE, (offset + n_bytes - 1) // _PAGE
            data = b"".join(self._page(page) for page in range(first, last + 1))
        except ElfError:
            return b""
        return data[offset - first * _PAGE :][:n_bytes]

    def _page(self, page: int) -> bytes:
        if page not in self._pages:
            start = page * _PAGE
            self._pages[page] = self.elf.source.read(start, min(_PAGE, self.elf.source.size - start))
        return self._pages[page]
