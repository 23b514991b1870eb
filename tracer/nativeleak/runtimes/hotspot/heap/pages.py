"""Memory of a running JVM in windows, and at many places at once; only pages that are in memory are read.

Scope: reads. A read of an absent page would map the page of zeros in the target, or swap a page in.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.closing import Closing
from nativeleak.errors import NativeleakError
from nativeleak.process.memory import open_memory, read_into
from nativeleak.process.procfs import PAGE_BYTES
from nativeleak.process.residency import ResidencyReader

Addresses: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.int32]
Flags: TypeAlias = npt.NDArray[np.bool_]
Bytes: TypeAlias = npt.NDArray[np.uint8]

WINDOW_BYTES: Final = 4 << 20
_LISTED_BYTES: Final = 256 << 20
"""Address space whose resident pages are listed at a time, so that the list stays short."""
_MAX_VECTORS: Final = 1024  # IOV_MAX
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Window:
    """Some memory without a gap.

    Attributes:
        start: Address of its first byte; a multiple of 8.
        data: Its bytes, a multiple of 8; the memory is used again for the next window.
    """

    start: int
    data: Bytes

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.start + len(self.data)

    @property
    def words(self) -> Addresses:
        """The bytes as 64-bit words."""
        return self.data.view(np.uint64)

    @property
    def halves(self) -> npt.NDArray[np.uint32]:
        """The bytes as 32-bit words."""
        return self.data.view(np.uint32)


class HeapPages(Closing):
    """Reads one process; a context manager.

    Args:
        pid: The process.

    Attributes:
        n_bytes: Read so far.
        n_absent_bytes: Of the ranges that were asked for: not in memory.

    Raises:
        NativeleakError: Its memory or its page map may not be read, or it is gone.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.n_bytes = 0
        self.n_absent_bytes = 0
        self._residency = ResidencyReader(pid)
        self._buffer = np.empty(WINDOW_BYTES, np.uint8)
        try:
            self._fd = open_memory(pid)
        except NativeleakError:
            self._residency.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._residency.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def windows(self, ranges: Sequence[tuple[int, int]], *, is_downward: bool = False) -> Iterator[Window]:
        """The resident memory of some ranges; each window is valid until the next one.

        Args:
            ranges: (start, end) in address order, without overlap.
            is_downward: From the last to the first.
        """
        for low, high in _turned(ranges, is_downward):
            pieces = [(at, min(at + _LISTED_BYTES, high)) for at in range(low, high, _LISTED_BYTES)]
            for piece_low, piece_high in _turned(pieces, is_downward):
                runs = self.present(piece_low, piece_high)
                self.n_absent_bytes += piece_high - piece_low - sum(end - start for start, end in runs)
                for start, end in _turned(runs, is_downward):
                    parts = [(at, min(at + WINDOW_BYTES, end)) for at in range(start, end, WINDOW_BYTES)]
                    for at, stop in _turned(parts, is_downward):
                        yield from self._window(at, stop)

    def present(self, start: int, end: int) -> list[tuple[int, int]]:
        """(start, end) of what is resident of a range, cut to the range and to multiples of 8."""
        runs = self._residency.present_runs(start, end)
        cut = ((max(low, -(-start // 8) * 8), min(high, end // 8 * 8)) for low, high in runs)
        return [(low, high) for low, high in cut if low < high]

    def read(self, start: int, end: int) -> Window | None:
        """One range of at most some MiB as it is, in memory of its own; None where a page of it is absent."""
        if self.present(start, end) != [(start, end)]:
            return None
        data = np.empty(end - start, np.uint8)
        return Window(start, data) if self._read_into(data, start) == len(data) else None

    def scattered(self, addresses: Addresses, n_bytes: int, *, checks: bool = True) -> tuple[Bytes, Flags]:
        """The same number of bytes at each address.

        Args:
            addresses: Anywhere.
            n_bytes: At each; at most a page.
            checks: Leave pages alone that are not resident.

        Returns:
            An array of len(addresses) x n_bytes, zero where nothing was read, and which were read.
        """
        data = np.zeros((len(addresses), n_bytes), np.uint8)
        done = np.zeros(len(addresses), np.bool_)
        usable = (addresses >= np.uint64(PAGE_BYTES)) & (addresses < np.uint64(1 << 47))
        if checks:
            usable[usable] = self._are_present(addresses[usable]) & self._are_present(
                addresses[usable] + np.uint64(n_bytes - 1)
            )
        chosen = np.flatnonzero(usable)
        at = 0
        while at < len(chosen):
            part = chosen[at : at + _MAX_VECTORS]
            rows = np.zeros((len(part), n_bytes), np.uint8)
            n_rows = self._read_vector(addresses[part], rows, n_bytes)
            data[part[:n_rows]] = rows[:n_rows]
            done[part[:n_rows]] = True
            at += n_rows if n_rows == len(part) else n_rows + 1  # the one that failed is passed over
        return data, done

    def _window(self, start: int, stop: int) -> Iterator[Window]:
        data = self._buffer[: stop - start]
        n_bytes = self._read_into(data, start) // 8 * 8
        if n_bytes:
            yield Window(start, data[:n_bytes])

    def _read_into(self, data: Bytes, address: int) -> int:
        n_read = read_into(self._fd, memoryview(data.data).cast("B"), address)
        self.n_bytes += n_read
        return n_read

    def _are_present(self, addresses: Addresses) -> Flags:
        """Whether the page of each is resident."""
        pages, inverse = np.unique(addresses // np.uint64(PAGE_BYTES), return_inverse=True)
        found = np.zeros(len(pages), np.bool_)
        # Neighbours are asked for together.
        breaks = np.flatnonzero(np.diff(pages) > 256) + 1
        for group in np.split(np.arange(len(pages)), breaks):
            if not len(group):
                continue
            first, last = int(pages[group[0]]), int(pages[group[-1]]) + 1
            for low, high in self._residency.present_runs(first * PAGE_BYTES, last * PAGE_BYTES):
                begin, end = np.searchsorted(pages, np.array([low // PAGE_BYTES, high // PAGE_BYTES], np.uint64))
                found[begin:end] = True
        return np.asarray(found[inverse], np.bool_)

    def _read_vector(self, addresses: Addresses, rows: Bytes, n_bytes: int) -> int:
        """Rows read, by process_vm_readv(2), up to the first that cannot be read."""
        remote = np.empty((len(addresses), 2), np.uint64)
        remote[:, 0] = addresses
        remote[:, 1] = n_bytes
        local = np.array([rows.ctypes.data, rows.nbytes], np.uint64)
        n_read = _libc.process_vm_readv(
            ctypes.c_int(self.pid),
            ctypes.c_void_p(local.ctypes.data), ctypes.c_ulong(1),
            ctypes.c_void_p(remote.ctypes.data), ctypes.c_ulong(len(addresses)), ctypes.c_ulong(0),
        )  # fmt: skip
        n_rows = max(0, int(n_read)) // n_bytes
        self.n_bytes += n_rows * n_bytes
        return n_rows


def _turned(items: Sequence[tuple[int, int]], is_downward: bool) -> Iterator[tuple[int, int]]:
    return reversed(items) if is_downward else iter(items)
