"""ELF files: segments, sections, notes, symbol tables, and where in a file an address lies.

Scope: 64-bit little-endian files (x86-64, aarch64), read only as far as naming addresses and placing probes needs. The
files come from the target and are not trusted: every count and offset is compared with the size of the file, and
damage raises only ``ElfError``.

Source: elf(5), the ELF gABI, glibc's elf/elf.h; for each structure the name is given where it is unpacked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Self

from nativeleak import arch
from nativeleak.process.namespaces import open_regular
from nativeleak.symbols.source import BytesSource, ElfError, FileSource, Source

__all__ = ["BytesSource", "ElfError", "ElfFile", "FileSource", "Section", "Segment", "Source", "SymbolArea"]

PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_NOTE: Final = 4
PF_X: Final = 1
SHT_SYMTAB: Final = 2
SHT_NOTE: Final = 7
SHT_NOBITS: Final = 8
SHT_DYNSYM: Final = 11
SHT_GNU_VERSYM: Final = 0x6FFF_FFFF
SHF_EXECINSTR: Final = 4
SYMBOL_BYTES: Final = 24
MAX_SYMBOLS: Final = 1 << 21
"""Maximum symbols read from one table; functions beyond have no names. Sorting them takes about 80 MB."""

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_PHDR: Final = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_NHDR: Final = struct.Struct("<III")  # Elf64_Nhdr
_DYN: Final = struct.Struct("<QQ")  # Elf64_Dyn
_EM_BPF: Final = 247
_XNUM: Final = 0xFFFF  # PN_XNUM and SHN_XINDEX: the number did not fit the header and stands in section 0
_NT_GNU_BUILD_ID: Final = 3
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ = 4, 5, 6, 10
_DT_GNU_HASH, _DT_VERSYM = 0x6FFF_FEF5, 0x6FFF_FFF0
_MAX_HEADERS: Final = 1 << 12  # of a kind; linkers make under 100, the kernel runs no program with more than 1,170
_MAX_DYNAMIC_BYTES: Final = 1 << 16
_MAX_NOTES_BYTES: Final = 1 << 16  # of all notes of a file together
_MAX_NAME_BYTES: Final = 1 << 16
_MAX_SECTION_NAME_BYTES: Final = 256
_NAME_CHUNK: Final = 128
_BIT_0: Final = bytes(byte & 1 for byte in range(256))


class Segment(NamedTuple):
    """A program header (Elf64_Phdr)."""

    type: int
    flags: int
    offset: int
    vaddr: int
    file_bytes: int
    memory_bytes: int


class Section(NamedTuple):
    """A section header (Elf64_Shdr)."""

    name: str
    type: int
    flags: int
    vaddr: int
    offset: int
    n_bytes: int
    link: int


@dataclass(frozen=True, slots=True)
class SymbolArea:
    """Location of a symbol table, all of it inside the file.

    Attributes:
        offset: File offset of the first Elf64_Sym.
        n_symbols: Number of symbols, at most ``MAX_SYMBOLS``.
        strings_offset: File offset of the strings.
        strings_bytes: Their length.
        versions_offset: File offset of the symbol versions (``.gnu.version``), 0 for none.
    """

    offset: int
    n_symbols: int
    strings_offset: int
    strings_bytes: int
    versions_offset: int = 0


class ElfFile:
    """One ELF file; a context manager, since it may hold a file open.

    Args:
        source: Its bytes; closed with the object, and if they are no ELF file.

    Raises:
        ElfError: The file is not a 64-bit little-endian ELF file for x86-64 or aarch64, or is damaged.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self._read_header()
        except ElfError:
            source.close()
            raise

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a regular file.

        Raises:
            OSError: It cannot be opened.
            ElfError: It is no readable ELF file.
        """
        return cls(FileSource(open_regular(path)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read from it afterwards."""
        self.source.close()

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The section headers; empty if the file has none or their table is outside the file."""
        offset, n_sections, names_index = self._section_table
        if not offset or not n_sections:
            return ()
        try:
            table = self.source.read(offset, n_sections * _SHDR.size)
        except ElfError:
            return ()  # a file cut off at the end still has its dynamic symbols
        headers = list(_SHDR.iter_unpack(table))
        names = headers[names_index] if names_index < n_sections else None
        return tuple(
            Section(self._section_name(names, name), kind, flags, vaddr, place, n_bytes, link)
            for name, kind, flags, vaddr, place, n_bytes, link, _, _, _ in headers
        )

    def section(self, name: str) -> Section | None:
        """The first section of a name that has bytes in the file."""
        return next((each for each in self.sections if each.name == name and each.type != SHT_NOBITS), None)

    def section_data(self, name: str, max_bytes: int) -> bytes | None:
        """The bytes of a section; None if the file has no such section.

        Raises:
            ElfError: It is outside the file or longer than ``max_bytes``.
        """
        section = self.section(name)
        if section is None:
            return None
        if section.n_bytes > max_bytes:
            raise ElfError(f"reading section {name} failed: {section.n_bytes} bytes, at most {max_bytes} are read")
        return self.source.read(section.offset, section.n_bytes)

    @cached_property
    def build_id(self) -> str:
        """The build id in hex; empty if the file has none.

        Sections come before segments, because segments of a separate debug file point at missing bytes.
        """
        places = [(each.offset, each.n_bytes) for each in self.sections if each.type == SHT_NOTE]
        places += [(each.offset, each.file_bytes) for each in self.segments if each.type == PT_NOTE]
        room = _MAX_NOTES_BYTES
        for offset, n_bytes in places:
            try:
                notes = self.source.read(offset, min(n_bytes, room))
            except ElfError:
                continue
            room -= len(notes)
            for owner, kind, content in _notes(notes):
                if owner == b"GNU\0" and kind == _NT_GNU_BUILD_ID and content:
                    return content.hex()
        return ""

    @cached_property
    def debug_link(self) -> tuple[str, int] | None:
        """File name and CRC32 of the separate debug file (``.gnu_debuglink``), None if the file names none."""
        try:
            data = self.section_data(".gnu_debuglink", 4096) or b""
        except ElfError:
            return None
        name, nul, _ = data.partition(b"\0")
        place = (len(name) + 4) & ~3  # the CRC follows the NUL at the next multiple of four
        if not nul or not name or b"/" in name or len(data) < place + 4:
            return None
        return name.decode("utf-8", "surrogateescape"), int.from_bytes(data[place : place + 4], "little")

    @cached_property
    def symtab(self) -> SymbolArea | None:
        """The full symbol table; None if the file was stripped."""
        return self._area_of_section(SHT_SYMTAB)

    @cached_property
    def dynsym(self) -> SymbolArea | None:
        """The dynamic symbol table: by its section, else by the dynamic segment."""
        area = self._area_of_section(SHT_DYNSYM)
        if area is not None:
            return area
        try:
            return self._area_of_dynamic()
        except ElfError:
            return None

    def name_at(self, area: SymbolArea, index: int) -> str:
        """A string of a symbol table, at most 64 KiB; invalid UTF-8 is replaced.

        Raises:
            ElfError: It is outside the table, or the file was truncated.
        """
        return self._string(area.strings_offset, area.strings_bytes, index)

    def vaddr_to_offset(self, vaddr: int) -> int | None:
        """File offset of a virtual address of the file; None if no segment contains it."""
        for segment in self.loads:
            if segment.vaddr <= vaddr < segment.vaddr + segment.file_bytes:
                return vaddr - segment.vaddr + segment.offset
        return None

    def offset_to_vaddr(self, offset: int) -> int | None:
        """The virtual address of a file offset; None if no segment contains it. Executable segments come first.

        The kernel maps whole pages, so the bytes around a segment are mapped with it and may be mapped twice.
        """
        for segment in self.loads:
            if segment.offset <= offset < segment.offset + segment.file_bytes:
                return offset - segment.offset + segment.vaddr
        return None

    @cached_property
    def loads(self) -> tuple[Segment, ...]:
        """The segments that are mapped, executable ones first."""
        loads = [segment for segment in self.segments if segment.type == PT_LOAD]
        return tuple(sorted(loads, key=lambda segment: not segment.flags & PF_X))

    def _read_header(self) -> None:
        ident, _, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = _EHDR.unpack(
            self.source.read(0, _EHDR.size)
        )
        if ident[:6] != b"\x7fELF\x02\x01":
            raise ElfError("reading an ELF file failed: not a 64-bit little-endian ELF file")
        if arch.by_elf(machine) is None and machine != _EM_BPF:
            known = " nor ".join(each.label for each in arch.MACHINES)
            raise ElfError(f"reading an ELF file failed: machine {machine} is neither {known}")
        self.machine: int = machine
        if shoff and (shnum == 0 or shstrndx == _XNUM or phnum == _XNUM):
            first = _SHDR.unpack(self.source.read(shoff, _SHDR.size))
            shnum = shnum or first[5]
            shstrndx = first[6] if shstrndx == _XNUM else shstrndx
            phnum = first[7] if phnum == _XNUM else phnum
        if phnum > _MAX_HEADERS or shnum > _MAX_HEADERS or (phnum and phentsize != _PHDR.size):
            raise ElfError("reading an ELF file failed: impossible number or size of headers")
        self._section_table = (shoff, shnum if shentsize == _SHDR.size else 0, shstrndx)
        table = self.source.read(phoff, phnum * _PHDR.size)
        self.segments: tuple[Segment, ...] = tuple(
            Segment(kind, flags, offset, vaddr, file_bytes, memory_bytes)
            for kind, flags, offset, vaddr, _, file_bytes, memory_bytes, _ in _PHDR.iter_unpack(table)
        )

    def _section_name(self, names: tuple[int, ...] | None, index: int) -> str:
        if names is None:
            return ""
        try:
            return self._string(names[4], min(names[5], index + _MAX_SECTION_NAME_BYTES), index)
        except ElfError:
            return ""

    def _string(self, offset: int, n_bytes: int, index: int) -> str:
        end = min(offset + n_bytes, self.source.size, offset + index + _MAX_NAME_BYTES)
        place, length = offset + index, _NAME_CHUNK
        if index < 0 or place >= end:
            raise ElfError(f"reading a name failed: offset {index} is outside its string table")
        while True:
            data = self.source.read(place, min(length, end - place))
            name, nul, _ = data.partition(b"\0")
            if nul or place + length >= end:
                return name.decode("utf-8", "replace")
            length *= 8

    def _area_of_section(self, kind: int) -> SymbolArea | None:
        for section in self.sections:
            if section.type != kind or section.link >= len(self.sections):
                continue
            strings = self.sections[section.link]
            n_bytes = min(section.n_bytes, self.source.size - section.offset)
            strings_bytes = min(strings.n_bytes, self.source.size - strings.offset)
            if n_bytes >= SYMBOL_BYTES and strings_bytes > 0:
                n_symbols = min(n_bytes // SYMBOL_BYTES, MAX_SYMBOLS)
                versions = self._versions_offset(n_symbols) if kind == SHT_DYNSYM else 0
                return SymbolArea(section.offset, n_symbols, strings.offset, strings_bytes, versions)
        return None

    def _versions_offset(self, n_symbols: int) -> int:
        for section in self.sections:
            if section.type == SHT_GNU_VERSYM and section.offset + 2 * n_symbols <= self.source.size:
                return section.offset
        return 0

    def _area_of_dynamic(self) -> SymbolArea | None:
        tags = self._dynamic_tags()
        symbols = self.vaddr_to_offset(tags.get(_DT_SYMTAB, -1))
        strings = self.vaddr_to_offset(tags.get(_DT_STRTAB, -1))
        if symbols is None or strings is None:
            return None
        n_symbols = self._count_dynamic(tags, symbols, strings)
        n_symbols = min(n_symbols, (self.source.size - symbols) // SYMBOL_BYTES, MAX_SYMBOLS)
        strings_bytes = min(tags.get(_DT_STRSZ, 0), self.source.size - strings)
        if n_symbols <= 0 or strings_bytes <= 0:
            return None
        versions = self.vaddr_to_offset(tags.get(_DT_VERSYM, -1)) or 0
        if versions + 2 * n_symbols > self.source.size:
            versions = 0
        return SymbolArea(symbols, n_symbols, strings, strings_bytes, versions)

    def _dynamic_tags(self) -> dict[int, int]:
        tags: dict[int, int] = {}
        for segment in self.segments:
            if segment.type == PT_DYNAMIC:
                n_bytes = min(segment.file_bytes, _MAX_DYNAMIC_BYTES) // _DYN.size * _DYN.size
                for tag, value in _DYN.iter_unpack(self.source.read(segment.offset, n_bytes)):
                    if tag == 0:
                        break
                    tags.setdefault(tag, value)
        return tags

    def _count_dynamic(self, tags: dict[int, int], symbols: int, strings: int) -> int:
        """Number of dynamic symbols, which no header contains: from a hash table, else from the table after them."""
        table = self.vaddr_to_offset(tags.get(_DT_HASH, -1))
        if table is not None:
            return int.from_bytes(self.source.read(table + 4, 4), "little")  # nchain
        table = self.vaddr_to_offset(tags.get(_DT_GNU_HASH, -1))
        if table is not None:
            return self._count_gnu_hash(table)
        return (strings - symbols) // SYMBOL_BYTES

    def _count_gnu_hash(self, table: int) -> int:
        """Number of symbols in a DT_GNU_HASH table.

        The header is nbuckets, symoffset, bloom_size, bloom_shift; then come the 8-byte bloom words, the buckets and
        one chain word a symbol from symoffset on, of which bit 0 ends a chain. The longest bucket's chain ends last.
        """
        n_buckets, first, n_bloom, _ = struct.unpack("<4I", self.source.read(table, 16))
        buckets = table + 16 + 8 * n_bloom
        last = max((word for (word,) in struct.iter_unpack("<I", self.source.read(buckets, 4 * n_buckets))), default=0)
        if last < first:
            return int(first)
        place = buckets + 4 * n_buckets + 4 * (last - first)
        n_words = min((self.source.size - place) // 4, MAX_SYMBOLS)
        n_more = self.source.read(place, 4 * n_words)[0::4].translate(_BIT_0).find(1)
        if n_more >= 0:
            return int(last) + n_more + 1
        raise ElfError("reading the dynamic symbols failed: a hash chain has no end")


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(owner, type, content) of each note, up to the first that does not fit."""
    place = 0
    while place + _NHDR.size <= len(data):
        name_bytes, content_bytes, kind = _NHDR.unpack_from(data, place)
        name = place + _NHDR.size
        content = name + (name_bytes + 3 & ~3)
        place = content + (content_bytes + 3 & ~3)
        if content + content_bytes > len(data):
            return
        yield data[name : name + name_bytes], kind, data[content : content + content_bytes]
