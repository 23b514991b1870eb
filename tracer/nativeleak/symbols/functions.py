"""Functions of an ELF file by name: where allocator functions are, for probes and for checks.

Scope: the inverse of ``symtab``. Functions that a file only uses (undefined symbols) are left out.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from nativeleak.symbols.elf import SYMBOL_BYTES, ElfError, ElfFile, SymbolArea

_MAX_STRINGS_BYTES: Final = 256 << 20
_STT_FUNC, _STT_GNU_IFUNC = 2, 10
_STB_LOCAL: Final = 0
_LONGEST_NAME: Final = 80
_VERSION_HIDDEN: Final = 0x8000  # VERSYM_HIDDEN: not the version that a new program is linked against


class FunctionSymbol(NamedTuple):
    """A function that a file defines.

    Attributes:
        vaddr: Virtual address; of an IFUNC the address of its resolver, not of the function.
        size: Length in bytes; 0 if the table does not have it.
        is_ifunc: The function is chosen when the program starts (STT_GNU_IFUNC).
    """

    vaddr: int
    size: int
    is_ifunc: bool


def function_symbols(elf: ElfFile, names: Iterable[str]) -> dict[str, FunctionSymbol]:
    """The functions of these names that ``elf`` defines, from its dynamic and its full symbol table.

    Symbol versions are ignored, in ``.symtab`` also those written into the name (``malloc@@VERSION``); of several
    versions the default one is taken, and a global function before a local one.

    Raises:
        ElfError: The file is damaged.
    """
    wanted = frozenset(names)
    found: dict[str, tuple[int, FunctionSymbol]] = {}
    for area in (elf.dynsym, elf.symtab):
        if area is None:
            continue
        for name, rank, symbol in _definitions(elf, area, lambda strings: _name_places(strings, wanted)):
            if name not in found or rank < found[name][0]:
                found[name] = (rank, symbol)
    return {name: symbol for name, (_, symbol) in found.items()}


def function_names(elf: ElfFile, parts: Iterable[str]) -> set[str]:
    """Names of the functions that ``elf`` defines and that have one of ``parts`` in them.

    Left out are mangled names of C++ and Rust, and names longer than 80 bytes.

    Raises:
        ElfError: The file is damaged.
    """
    wanted = tuple(part.encode() for part in parts)
    return {
        name
        for area in (elf.dynsym, elf.symtab)
        if area is not None
        for name, _, _ in _definitions(elf, area, lambda strings: _places_around(strings, wanted))
    }


def find_function_offsets(path: str, names: Iterable[str]) -> dict[str, int]:
    """File offsets of the functions of these names that the file at ``path`` defines; IFUNCs are left out.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no readable ELF file.
    """
    with ElfFile.open(path) as elf:
        offsets = {
            name: elf.vaddr_to_offset(symbol.vaddr)
            for name, symbol in function_symbols(elf, names).items()
            if not symbol.is_ifunc
        }
    return {name: offset for name, offset in offsets.items() if offset is not None}


_Places = dict[int, tuple[str, bool]]


def _definitions(
    elf: ElfFile, area: SymbolArea, find_places: Callable[[bytes], _Places]
) -> Iterator[tuple[str, int, FunctionSymbol]]:
    """(name, rank, symbol) of the wanted functions of one table; the lowest rank is the one to take."""
    if area.strings_bytes > _MAX_STRINGS_BYTES:
        raise ElfError(f"reading symbol names failed: {area.strings_bytes} bytes of names")
    places = find_places(elf.source.read(area.strings_offset, area.strings_bytes))
    if not places:
        return
    table = elf.source.read(area.offset, area.n_symbols * SYMBOL_BYTES)
    # Elf64_Sym: st_name (4 bytes), st_info (1), st_other (1), st_shndx (2), st_value (8), st_size (8).
    name_words = array.array("I", table)[0::6]
    for index, place in enumerate(name_words):
        if place not in places:
            continue
        entry = table[index * SYMBOL_BYTES : (index + 1) * SYMBOL_BYTES]
        kind, binding = entry[4] & 15, entry[4] >> 4
        if kind not in (_STT_FUNC, _STT_GNU_IFUNC) or entry[6:8] == b"\0\0":
            continue
        name, is_old_version = places[place]
        rank = 2 * (is_old_version or _is_hidden(elf, area, index)) + (binding == _STB_LOCAL)
        vaddr, size = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[16:24], "little")
        yield name, rank, FunctionSymbol(vaddr, size, kind == _STT_GNU_IFUNC)


def _name_places(strings: bytes, wanted: frozenset[str]) -> _Places:
    """Offsets at which a symbol's name may begin, with the name and whether it is of a version that is not the default.

    A linker stores ``malloc`` as the end of ``__libc_malloc``, so that a name may begin in the middle of another.
    """
    places: _Places = {}
    for name in wanted:
        raw = name.encode()
        place = strings.find(raw)
        while place >= 0:
            rest = strings[place + len(raw) : place + len(raw) + 2]
            if rest[:1] in (b"\0", b"@"):
                places[place] = (name, rest[:1] == b"@" and rest != b"@@")
            place = strings.find(raw, place + 1)
    return places


def _places_around(strings: bytes, parts: tuple[bytes, ...]) -> _Places:
    """Offsets at which a symbol's name with one of the parts may begin; a name may be the end of a longer one."""
    places: _Places = {}
    for part in parts:
        at = strings.find(part)
        while at >= 0:
            start = strings.rfind(b"\0", max(0, at - _LONGEST_NAME), at) + 1
            end = strings.find(b"\0", at, at + _LONGEST_NAME)
            if end >= 0 and (start or at < _LONGEST_NAME) and not strings.startswith((b"_Z", b"_R"), start):
                name = strings[start:end].decode("ascii", "replace")
                bare, _, version = name.partition("@")
                for place in range(start, at + 1):
                    places[place] = (bare[place - start :], bool(version) and not version.startswith("@"))
            at = strings.find(part, max(at + 1, end))
    return places


def _is_hidden(elf: ElfFile, area: SymbolArea, index: int) -> bool:
    if not area.versions_offset:
        return False
    return bool(int.from_bytes(elf.source.read(area.versions_offset + 2 * index, 2), "little") & _VERSION_HIDDEN)
