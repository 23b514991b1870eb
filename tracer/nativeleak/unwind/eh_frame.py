"""``.eh_frame`` and ``.debug_frame``: which code has which rows.

Scope: finding the records (CIE, FDE), reading them, and running each distinct program once. libLLVM-14 has 94,994 FDEs
and 34,089 distinct programs: this is what makes plain Python fast enough. The files come from the target: a record that
cannot be read raises ``ElfError``, time and memory are bounded by the size of the section, and that by a limit.

Source: LSB Core specification, "Exception Frames"; DWARF 5, section 6.4.1; SysV gABI, "Section Compression".
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from nativeleak.symbols.elf import SHT_NOBITS, ElfFile, Section
from nativeleak.symbols.source import ElfError
from nativeleak.unwind.cfa import Factors, Machine, Row
from nativeleak.unwind.encoding import (
    ABSOLUTE,
    OMITTED,
    PC_RELATIVE_S4,
    WORD_MASK,
    read_pointer,
    read_sleb,
    read_uleb,
    read_value,
    skip_pointer,
)
from nativeleak.unwind.states import RETURN_ADDRESS

MAX_SECTION_BYTES: Final = 128 << 20
"""Of one section; libLLVM-14 has 6 MB, Chromium some 15."""
MAX_DISTINCT_ROWS: Final = 4 << 20
"""Rows of all distinct programs of an object; libLLVM-14 has 0.3 million. Each takes about 100 bytes for a while."""

PT_GNU_EH_FRAME: Final = 0x6474_E550
SHF_COMPRESSED: Final = 0x800
_ELFCOMPRESS_ZLIB: Final = 1
_CHDR: Final = struct.Struct("<IIQQ")  # Elf64_Chdr
_FDE: Final = struct.Struct("<IIiI")  # length, CIE, and a range in the usual encoding, pc-relative sdata4
_PADDING: Final = bytes(_FDE.size)  # so that the struct can be read at the last byte
_LONG: Final = 0xFFFF_FFF0  # from here on a length is an escape, 0xffffffff for 64-bit DWARF
_DEBUG_CIE: Final = 0xFFFF_FFFF
_MAX_AUGMENTATION_BYTES: Final = 16
_MAX_INFLATION: Final = 1032  # of zlib's deflate

Fde = tuple[int, int, tuple[Row, ...]]
"""(start, end, rows): the addresses of a function, end excluded, and its rows, counted from start."""


@dataclass(slots=True)
class FrameSection:
    """Bytes of CFI and their format.

    Attributes:
        data: The bytes.
        vaddr: Their address; 0 for ``.debug_frame``, which is not mapped.
        is_debug: They are ``.debug_frame``.
        data_base: Base of DW_EH_PE_datarel.
        n_fdes: Number of FDEs; None if the section ends after the last.
    """

    data: bytes
    vaddr: int = 0
    is_debug: bool = False
    data_base: int | None = None
    n_fdes: int | None = None


@dataclass(slots=True)
class _Cie:
    """A CIE: facts that many functions share.

    Attributes:
        encoding: Encoding of their addresses.
        has_lengths: Each FDE has the length of its augmentation data ('z').
        machine: Runs their programs.
        known: The rows of programs that were run before.
    """

    encoding: int
    has_lengths: bool
    machine: Machine
    known: dict[bytes, tuple[Row, ...]] = field(default_factory=dict)


def find_eh_frame(elf: ElfFile) -> FrameSection | None:
    """``.eh_frame`` by its section, else by the segment that points at it; None if the file has none.

    Raises:
        ElfError: It is outside the file or too long.
    """
    section = elf.section(".eh_frame")
    if section is not None:
        _check_size(section.n_bytes)
        data = elf.source.read(section.offset, section.n_bytes)
        return FrameSection(data, section.vaddr, data_base=_got(elf))
    segment = next((each for each in elf.segments if each.type == PT_GNU_EH_FRAME), None)
    if segment is None or any(each.name == ".eh_frame" for each in elf.sections):
        return None
    return _by_header(elf, segment.vaddr)


def find_debug_frame(elf: ElfFile) -> FrameSection | None:
    """``.debug_frame``, unpacked; None if the file has none.

    Raises:
        ElfError: It is outside the file, too long, or compressed in an unknown way.
    """
    section = elf.section(".debug_frame")
    if section is not None:
        _check_size(section.n_bytes)
        data = elf.source.read(section.offset, section.n_bytes)
        return FrameSection(_unpack(section, data), is_debug=True)
    section = elf.section(".zdebug_frame")  # how binutils packed before SHF_COMPRESSED
    if section is not None:
        _check_size(section.n_bytes)
        data = elf.source.read(section.offset, section.n_bytes)
        if data[:4] == b"ZLIB" and len(data) >= 12:
            return FrameSection(_inflate(data[12:], int.from_bytes(data[4:12], "big")), is_debug=True)
    return None


def n_frame_bytes(elf: ElfFile) -> int:
    """Unpacked bytes of CFI, to estimate the work; 0 without a section."""
    total = 0
    for each in elf.sections:
        if each.name == ".eh_frame" and each.type != SHT_NOBITS:
            total += each.n_bytes
        elif each.name in (".debug_frame", ".zdebug_frame") and each.type != SHT_NOBITS:
            is_packed = each.flags & SHF_COMPRESSED or each.name == ".zdebug_frame"
            total += each.n_bytes * (_MAX_INFLATION if is_packed else 1)
    return total


def read_fdes(section: FrameSection, min_row_bytes: int = 1) -> list[Fde]:
    """All functions of a section, in its order.

    Args:
        section: The bytes.
        min_row_bytes: Shorter rows are left out, except signal frames and roots.

    Raises:
        ElfError: A record cannot be read; the text has its address.
    """
    reader = _Reader(section, min_row_bytes)
    try:
        reader.read()
    except (ElfError, IndexError) as error:
        name = ".debug_frame" if section.is_debug else ".eh_frame"
        why = error.what if isinstance(error, ElfError) else "a record is cut off"
        raise ElfError(f"{name} is damaged at {reader.place:#x}: {why}") from None
    return reader.fdes


class _Reader:
    def __init__(self, section: FrameSection, min_row_bytes: int) -> None:
        self._section = section
        self._min_bytes = min_row_bytes
        self._data = section.data + _PADDING
        self._cies: dict[int, _Cie] = {}
        self._n_rows = 0
        self.place = 0
        self.fdes: list[Fde] = []

    def read(self) -> None:
        """Read the records one after the other."""
        data, size, is_debug = self._data, len(self._section.data), self._section.is_debug
        n_fdes = self._section.n_fdes
        cie_mark = _DEBUG_CIE if is_debug else 0
        fdes, unpack = self.fdes, _FDE.unpack_from
        place = 0
        while place + 4 <= size:
            self.place = place
            length, link, first, n_bytes = unpack(data, place)
            if length == 0:
                if n_fdes is not None:
                    break  # without a section this is the only end
                place += 4
                continue
            end = place + 4 + length
            if length >= _LONG or length < 4 or end > size:
                raise ElfError("a record has an impossible length")
            if link == cie_mark:
                self._cies[place] = self._read_cie(place + 8, end)
            else:
                cie = self._cies.get(link if is_debug else place + 4 - link)
                if cie is None:
                    raise ElfError("a function has no CIE")
                fdes.append(self._read_fde(cie, end, first, n_bytes))
                if n_fdes is not None and len(fdes) >= n_fdes:
                    break
            place = end

    def _read_fde(self, cie: _Cie, end: int, first: int, n_bytes: int) -> Fde:
        """A function.

        Args:
            cie: Its CIE.
            end: End of its record.
            first: Its address, if it is pc-relative and of 4 bytes, as it nearly always is.
            n_bytes: Its length in that case.
        """
        data, at = self._data, self.place + 8
        if cie.encoding == PC_RELATIVE_S4:
            start = self._section.vaddr + at + first & WORD_MASK
            at += 8
        else:
            start, n_bytes, at = self._read_range(cie, at)
        if cie.has_lengths:
            skip = data[at]
            at += 1
            if skip >= 0x80:
                skip, at = read_uleb(data, at - 1)
            at += skip
        if at > end:
            raise ElfError("a function's record is too short")
        code = data[at:end]
        rows = cie.known.get(code)
        return start, start + n_bytes, self._run(cie, code, start, at) if rows is None else rows

    def _run(self, cie: _Cie, code: bytes, start: int, at: int) -> tuple[Row, ...]:
        rows = cie.machine.run(code, start, self._section.vaddr + at)
        if not cie.machine.has_set_loc:
            cie.known[code] = rows
        self._n_rows += len(rows)
        if self._n_rows > MAX_DISTINCT_ROWS:
            raise ElfError(f"more than {MAX_DISTINCT_ROWS} distinct rows")
        return rows

    def _read_range(self, cie: _Cie, at: int) -> tuple[int, int, int]:
        """First address, number of bytes and the place after them."""
        start, at = self._read_pointer(cie.encoding, self._data, at, self._section.vaddr + at)
        n_bytes, at = read_value(self._data, at, cie.encoding & 0x07)  # a length has no sign and no base
        return start, n_bytes, at

    def _read_pointer(self, encoding: int, data: bytes, at: int, address: int) -> tuple[int, int]:
        return read_pointer(data, at, encoding, address, self._section.data_base)

    def _read_cie(self, at: int, end: int) -> _Cie:
        data = self._data
        version = data[at]
        if version not in (1, 3, 4):
            raise ElfError(f"CIE version {version} is not known")
        nul = data.find(b"\0", at + 1, min(end, at + 2 + _MAX_AUGMENTATION_BYTES))
        if nul < 0:
            raise ElfError("an augmentation has no end")
        augmentation = data[at + 1 : nul].decode("latin-1")
        at = nul + 1
        if augmentation == "eh":  # gcc 2: a pointer follows
            augmentation, at = "", at + 8
        if version == 4:
            if data[at : at + 2] != b"\x08\0":
                raise ElfError("addresses are not of 8 bytes")
            at += 2
        code_factor, at = read_uleb(data, at)
        data_factor, at = read_sleb(data, at)
        return_register, at = (data[at], at + 1) if version == 1 else read_uleb(data, at)
        encoding = ABSOLUTE
        if return_register != RETURN_ADDRESS:
            raise ElfError(f"the return address is in register {return_register}")
        if augmentation:
            if augmentation[0] != "z":
                raise ElfError(f"augmentation {augmentation!r} is not known")
            n_bytes, at = read_uleb(data, at)
            encoding = self._read_augmentation(augmentation, at, at + n_bytes)
            at += n_bytes
        if at > end:
            raise ElfError("a CIE is too short")
        pointer = partial(self._read_pointer, encoding)
        factors = Factors(code_factor, data_factor, "S" in augmentation, pointer)
        return _Cie(encoding, bool(augmentation), Machine(factors, data[at:end], self._min_bytes))

    def _read_augmentation(self, augmentation: str, at: int, end: int) -> int:
        """Encoding of the functions' addresses."""
        data, encoding = self._data, ABSOLUTE
        for letter in augmentation[1:]:
            if letter == "R":
                encoding, at = data[at], at + 1
            elif letter == "L":
                at += 1
            elif letter == "P":
                at = skip_pointer(data, at + 1, data[at], self._section.vaddr + at + 1)
            elif letter not in "SB":
                raise ElfError(f"augmentation {augmentation!r} is not known")
        if at > end:
            raise ElfError("an augmentation is too short")
        return encoding


def _by_header(elf: ElfFile, vaddr: int) -> FrameSection | None:
    """The section that ``.eh_frame_hdr`` at an address points at.

    Its first bytes are: version, encoding of the pointer, of the number of FDEs, of the table; then pointer and number.
    """
    header = _mapped(elf, vaddr, 64)
    if len(header) < 8 or header[0] != 1:
        raise ElfError("reading .eh_frame_hdr failed: its version is not known")
    place, at = read_pointer(header, 4, header[1], vaddr + 4, vaddr)
    n_fdes = WORD_MASK
    if header[2] != OMITTED:
        n_fdes, _ = read_value(header, at, header[2])
    if n_fdes <= 0:
        return None
    data = _mapped(elf, place, MAX_SECTION_BYTES)
    return FrameSection(data, place, data_base=_got(elf), n_fdes=n_fdes)


def _mapped(elf: ElfFile, vaddr: int, max_bytes: int) -> bytes:
    """The file's bytes from an address to the end of its segment, at most ``max_bytes``."""
    for segment in elf.loads:
        n_bytes = segment.vaddr + segment.file_bytes - vaddr
        if segment.vaddr <= vaddr and n_bytes > 0:
            return elf.source.read(vaddr - segment.vaddr + segment.offset, min(n_bytes, max_bytes))
    raise ElfError(f"reading .eh_frame failed: no segment holds {vaddr:#x}")


def _got(elf: ElfFile) -> int | None:
    """Address of the global offset table."""
    for name in (".got.plt", ".got"):
        section = elf.section(name)
        if section is not None:
            return section.vaddr
    return None


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_SECTION_BYTES:
        raise ElfError(f"reading CFI failed: {n_bytes} bytes, at most {MAX_SECTION_BYTES} are read")


def _unpack(section: Section, data: bytes) -> bytes:
    if not section.flags & SHF_COMPRESSED:
        return data
    if len(data) < _CHDR.size:
        raise ElfError("unpacking .debug_frame failed: it is cut off")
    kind, _, n_bytes, _ = _CHDR.unpack_from(data)
    if kind != _ELFCOMPRESS_ZLIB:
        raise ElfError(f"unpacking .debug_frame failed: compression {kind} is not known")
    return _inflate(data[_CHDR.size :], n_bytes)


def _inflate(packed: bytes, n_bytes: int) -> bytes:
    _check_size(n_bytes)
    try:
        data = zlib.decompressobj().decompress(packed, max(n_bytes, 1))
    except zlib.error as error:
        raise ElfError(f"unpacking .debug_frame failed: {error}") from None
    if len(data) != n_bytes:
        raise ElfError("unpacking .debug_frame failed: it is cut off")
    return data
