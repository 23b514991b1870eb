"""Landing pads: where an exception that leaves a call goes on in the function that made the call.

Scope: x86-64 objects with ``.eh_frame_hdr``; without it no function has landing pads, since nothing could find them.
Source: LSB Core specification, "Exception Frames"; Itanium C++ ABI: Exception Handling, "LSDA", as gcc and clang write.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from nativeleak.probes.image import Image
from nativeleak.symbols.elf import ElfError
from nativeleak.unwind.eh_frame import PT_GNU_EH_FRAME
from nativeleak.unwind.encoding import ABSOLUTE, OMITTED, read_pointer, read_uleb, read_value, skip_pointer

_MAX_TABLE_BYTES: Final = 32 << 20
_MAX_RECORD_BYTES: Final = 4096
_MAX_LSDA_BYTES: Final = 1 << 16
_INDIRECT: Final = 0x80


class LandingPads:
    """The landing pads of one object, looked up as they are asked for.

    Args:
        image: The object.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._ends: dict[int, int] = {}
        self._sites: dict[int, list[tuple[int, int, int]]] = {}

    def of_call(self, vaddr: int) -> tuple[int, ...]:
        """The landing pad of the call at an address; empty where an exception goes on to the caller.

        Raises:
            ElfError: The tables are damaged.
        """
        base, starts, records = self._functions
        place = bisect_right(starts, vaddr - base) - 1
        if place < 0:
            return ()
        record = base + records[place]
        if record not in self._sites:
            try:
                self._sites[record] = self._read_function(record)
            except IndexError:
                raise ElfError(f"the frame record at {record:#x} is cut off") from None
        return tuple(pad for start, end, pad in self._sites[record] if start <= vaddr < end)

    def is_end(self, vaddr: int) -> bool:
        """Whether a function ends before this address: a call whose last instruction is there does not come back."""
        base, starts, records = self._functions
        place = bisect_left(starts, vaddr - base) - 1
        if place < 0:
            return False
        if place + 1 < len(starts) and starts[place + 1] == vaddr - base:
            return True
        record = base + records[place]
        if record not in self._ends:
            try:
                self._ends[record] = self._read_range(record)[1]
            except IndexError:
                raise ElfError(f"the frame record at {record:#x} is cut off") from None
        return vaddr == self._ends[record]

    def function_around(self, vaddr: int) -> tuple[int, int] | None:
        """First address and end of the function that an address is in; None where no table says so.

        Raises:
            ElfError: The tables are damaged.
        """
        base, starts, records = self._functions
        place = bisect_right(starts, vaddr - base) - 1
        if place < 0:
            return None
        record = base + records[place]
        try:
            start, end, *_ = self._read_range(record)
        except IndexError:
            raise ElfError(f"the frame record at {record:#x} is cut off") from None
        return (start, end) if start <= vaddr < end else None

    @cached_property
    def _functions(self) -> tuple[int, Sequence[int], Sequence[int]]:
        """(base, starts, records): functions in ascending order and their records (FDEs), counted from the base."""
        header = next((each for each in self._image.elf.segments if each.type == PT_GNU_EH_FRAME), None)
        if header is None or header.file_bytes > _MAX_TABLE_BYTES:
            return 0, (), ()
        data = self._image.read_data(header.vaddr, header.file_bytes)
        # version, encodings of: the pointer to .eh_frame, the count, the table. Linkers write 4 bytes, data-relative.
        if len(data) < 12 or data[0] != 1 or data[2] != 0x03 or data[3] != 0x3B:
            return 0, (), ()
        _, at = read_pointer(data, 4, data[1], header.vaddr + 4, header.vaddr)
        n, at = read_value(data, at, data[2])
        if at + 8 * n > len(data):
            raise ElfError(".eh_frame_hdr is cut off")
        # Not as lists: a large program has a million functions.
        words = array("i", data[at : at + 8 * n])
        return header.vaddr, words[0::2], words[1::2]

    def _read_record(self, vaddr: int) -> bytes:
        size = int.from_bytes(self._image.read_data(vaddr, 4), "little")
        if not 4 <= size <= _MAX_RECORD_BYTES:
            raise ElfError(f"the frame record at {vaddr:#x} has an impossible length")
        return self._image.read_data(vaddr, 4 + size)

    def _read_range(self, record: int) -> tuple[int, int, bytes, int, int]:
        """First address and end of a function, its record, the place behind them, how its LSDA's address is written."""
        data = self._read_record(record)
        encoding, lsda_encoding, has_lengths = self._read_cie(record + 4 - int.from_bytes(data[4:8], "little"))
        start, at = read_pointer(data, 8, encoding, record + 8, None)
        n_bytes, at = read_value(data, at, encoding & 0x07)
        return start, start + n_bytes, data, at, lsda_encoding if has_lengths else OMITTED

    def _read_function(self, record: int) -> list[tuple[int, int, int]]:
        """(start, end, landing pad) of a function's call sites that have one."""
        start, end, data, at, lsda_encoding = self._read_range(record)
        if lsda_encoding == OMITTED:
            return []
        n_more, at = read_uleb(data, at)
        if not any(data[at : at + n_more]):
            return []
        lsda, _ = read_pointer(data, at, lsda_encoding & ~_INDIRECT, record + at, None)
        return self._read_lsda(lsda, start, end)

    def _read_cie(self, vaddr: int) -> tuple[int, int, bool]:
        """Encodings of addresses and of LSDA pointers, and whether functions have augmentation data."""
        data = self._read_record(vaddr)
        nul = data.index(b"\0", 9)
        augmentation = data[9:nul].decode("latin-1")
        if not augmentation.startswith("z"):
            return ABSOLUTE, OMITTED, False
        at = nul + 1
        _, at = read_uleb(data, at)
        _, at = read_uleb(data, at)  # signed, but only its length matters
        at = at + 1 if data[8] == 1 else read_uleb(data, at)[1]
        _, at = read_uleb(data, at)
        encoding, lsda_encoding = ABSOLUTE, OMITTED
        for letter in augmentation[1:]:
            if letter == "R":
                encoding, at = data[at], at + 1
            elif letter == "L":
                lsda_encoding, at = data[at], at + 1
            elif letter == "P":
                at = skip_pointer(data, at + 1, data[at], vaddr + at + 1)
            elif letter not in "SB":
                raise ElfError(f"augmentation {augmentation!r} is not known")
        return encoding, lsda_encoding, True

    def _read_lsda(self, vaddr: int, start: int, end: int) -> list[tuple[int, int, int]]:
        data = self._image.read_data(vaddr, 4)
        for n_bytes in (_MAX_LSDA_BYTES, 4096, 256, 64):
            data = self._image.read_data(vaddr, n_bytes)
            if data:
                break
        pads_base, at = start, 1
        if data[0] != OMITTED:
            pads_base, at = read_pointer(data, at, data[0], vaddr + at, None)
        types_encoding, at = data[at], at + 1
        if types_encoding != OMITTED:
            _, at = read_uleb(data, at)
        encoding, at = data[at], at + 1
        n_bytes, at = read_uleb(data, at)
        table_end = at + n_bytes
        sites = []
        while at < table_end:
            first, at = read_value(data, at, encoding)
            length, at = read_value(data, at, encoding)
            pad, at = read_value(data, at, encoding)
            _, at = read_uleb(data, at)
            if pad:
                site = start + first
                if not start <= site < end:
                    raise ElfError(f"the call sites at {vaddr:#x} are damaged")
                sites.append((site, site + length, pads_base + pad))
        return sites
