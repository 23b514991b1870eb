"""How much of an address range is in memory, asked from the kernel page by page.

Scope: bytes resident per range, for mappings of every kind. Two sources:

* ``PAGEMAP_SCAN`` (kernel 6.7 on): the kernel returns runs of present pages and leaves out the shared page of zeros.
* /proc/PID/pagemap, eight bytes a page, elsewhere: a page that was only ever read counts as resident there, because
  without CAP_SYS_ADMIN nothing tells the shared page of zeros from others.

Swapped pages are not resident in either. A huge page counts as what of it lies in the range.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from nativeleak.closing import Closing
from nativeleak.errors import CannotTraceError
from nativeleak.process.procfs import PAGE_BYTES, PTRACE_REMEDY, TargetGoneError

# include/uapi/linux/fs.h: struct pm_scan_arg is twelve __u64 (size, flags, start, end, walk_end, vec, vec_len,
# max_pages, category_inverted, category_mask, category_anyof_mask, return_mask); the request is _IOWR('f', 16, it).
_SCAN_ARG: Final = struct.Struct("=12Q")
_PAGEMAP_SCAN: Final = 3 << 30 | _SCAN_ARG.size << 16 | ord("f") << 8 | 16
_WALK_END: Final = slice(32, 40)
_IS_FILE: Final = 1 << 2
_IS_PRESENT: Final = 1 << 3
_IS_PFNZERO: Final = 1 << 5
# struct page_region is three __u64: start, end, categories. 24 KiB hold 1,024 of them.
_REGION_WORDS: Final = 3
_N_REGIONS: Final = 1024

# Documentation/admin-guide/mm/pagemap.rst: bit 63 of an entry says "present"; it is bit 7 of the last byte. Bit 61: the
# page is a file's, or shared.
_ENTRY_BYTES: Final = 8
_CHUNK_PAGES: Final = 1 << 17
_PRESENT: Final = bytes(byte >> 7 for byte in range(256))
_PRIVATE: Final = bytes(byte >> 7 & ~(byte >> 5) & 1 for byte in range(256))
_PRESENT_RUN: Final = re.compile(rb"\x01+")


class ResidencyReader(Closing):
    """Reads residency of one process; a context manager, since it keeps /proc/PID/pagemap open.

    Once open it answers for the process it was opened on even when the PID is taken by another; after the end of the
    process every range has 0 bytes.

    Args:
        pid: The process.
        use_scan: Whether ``PAGEMAP_SCAN`` may be used; False only to test the other source.

    Raises:
        TargetGoneError: There is no such process.
        CannotTraceError: Its page map may not be read with these rights.
    """

    def __init__(self, pid: int, *, use_scan: bool = True) -> None:
        path = f"/proc/{pid}/pagemap"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TargetGoneError(f"reading {path} failed: process {pid} is gone") from error
        except OSError as error:
            raise CannotTraceError(f"reading {path} failed: {error.strerror}", PTRACE_REMEDY) from error
        self._regions = array.array("Q", bytes(8 * _REGION_WORDS * _N_REGIONS))
        try:
            self.uses_scan = use_scan and self._scan_works()
        except ProcessLookupError as error:
            self.close()
            raise TargetGoneError(f"reading {path} failed: process {pid} is gone") from error

    def close(self) -> None:
        """Close the page map; the reader is of no use afterwards."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def has_ended(self) -> bool:
        """Whether the address space is gone: its process has ended, or runs another program."""
        try:
            return not os.pread(self._fd, _ENTRY_BYTES, 0)
        except OSError:
            return True

    def resident_bytes(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Bytes in memory of each (start, end); ends are rounded outwards to whole pages. Holes count as 0."""
        return [self._resident(start, end) for start, end in ranges]

    def present_runs(self, start: int, end: int, *, skips_files: bool = False) -> list[tuple[int, int]]:
        """(start, end) of each run of pages in memory, in address order; ends are rounded outwards to whole pages.

        A page outside of these runs is to be left alone: a read would map the page of zeros there, or swap it in.

        Args:
            start: First address.
            end: First address behind the range.
            skips_files: Leave out pages that are still a file's: the process has written nothing there.
        """
        first = start // PAGE_BYTES * PAGE_BYTES
        last = -(-end // PAGE_BYTES) * PAGE_BYTES
        if last <= first or last > 1 << 63:
            return []
        runs: list[tuple[int, int]] = []
        try:
            source = self._scanned if self.uses_scan else self._listed
            for low, high in source(first, last, skips_files=skips_files):
                if runs and runs[-1][1] == low:
                    runs[-1] = runs[-1][0], high
                else:
                    runs.append((low, high))
        except OSError:
            return []
        return runs

    def _resident(self, start: int, end: int) -> int:
        first = start // PAGE_BYTES * PAGE_BYTES
        last = -(-end // PAGE_BYTES) * PAGE_BYTES
        if last <= first or last > 1 << 63:
            return 0
        try:
            return self._scan(first, last) if self.uses_scan else self._count(first, last)
        except OSError:
            return 0  # the process is gone, or the range is no user address

    def _scan_works(self) -> bool:
        try:
            self._scan(0, PAGE_BYTES)
        except OSError as error:
            # EPERM: a seccomp filter that does not know the request.
            if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EPERM, errno.ENOSYS):
                return False
            raise
        return True

    def _scan(self, start: int, end: int) -> int:
        """Resident bytes of a range by PAGEMAP_SCAN."""
        return sum(high - low for low, high in self._scanned(start, end))

    def _scanned(self, start: int, end: int, *, skips_files: bool = False) -> Iterator[tuple[int, int]]:
        """Runs of resident pages by PAGEMAP_SCAN."""
        address, _ = self._regions.buffer_info()
        unwanted = _IS_PFNZERO | (_IS_FILE if skips_files else 0)
        while start < end:
            argument = bytearray(
                _SCAN_ARG.pack(
                    _SCAN_ARG.size, 0, start, end, 0, address, _N_REGIONS, 0,
                    unwanted, _IS_PRESENT | unwanted, 0, _IS_PRESENT,
                )
            )  # fmt: skip
            n_regions = fcntl.ioctl(self._fd, _PAGEMAP_SCAN, argument)
            words = self._regions[: n_regions * _REGION_WORDS]
            yield from zip(words[0::_REGION_WORDS], words[1::_REGION_WORDS], strict=True)
            walked = int.from_bytes(argument[_WALK_END], "little")
            if n_regions:
                # Where the last region fills the answer, walk_end may lie before regions that are in it (seen on Linux
                # 6.18: 512 regions of three pages came twice).
                walked = max(walked, words[-2])
            if walked <= start:
                break
            start = walked

    def _count(self, start: int, end: int) -> int:
        """Resident bytes of a range by the entries of the page map."""
        return PAGE_BYTES * sum(flags.count(1) for _, flags in self._flags(start, end))

    def _listed(self, start: int, end: int, *, skips_files: bool = False) -> Iterator[tuple[int, int]]:
        """Runs of resident pages by the entries of the page map."""
        for base, flags in self._flags(start, end, _PRIVATE if skips_files else _PRESENT):
            for run in _PRESENT_RUN.finditer(flags):
                yield base + run.start() * PAGE_BYTES, base + run.end() * PAGE_BYTES

    def _flags(self, start: int, end: int, table: bytes = _PRESENT) -> Iterator[tuple[int, bytes]]:
        """An address, and one byte for each page from there on: 1 where it is resident."""
        page, last = start // PAGE_BYTES, end // PAGE_BYTES
        while page < last:
            entries = os.pread(self._fd, min(last - page, _CHUNK_PAGES) * _ENTRY_BYTES, page * _ENTRY_BYTES)
            if len(entries) < _ENTRY_BYTES:
                break
            yield page * PAGE_BYTES, entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(table)
            page += len(entries) // _ENTRY_BYTES
