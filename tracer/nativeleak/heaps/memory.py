"""Memory of the target as arrays of words; only pages that are resident are read.

Scope: reads. A read of an absent page would map the page of zeros in the target, or swap a page in: absent pages are
zeros here, and never touched.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.closing import Closing
from nativeleak.errors import NativeleakError
from nativeleak.process.memory import open_memory, read_into
from nativeleak.process.procfs import PAGE_BYTES
from nativeleak.process.residency import ResidencyReader

Words: TypeAlias = npt.NDArray[np.uint64]
Places: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

WORD_BYTES: Final = 8
_HEADS_A_CALL: Final = 1024  # IOV_MAX
_libc: Final = ctypes.CDLL(None, use_errno=True)


class HeapError(NativeleakError):
    """The memory does not hold what an allocator keeps there."""


@dataclass(frozen=True, slots=True)
class Window:
    """Whole pages of the target.

    Attributes:
        start: Address of the first word; a page's start.
        words: Their contents; 0 where no page is resident.
        present: (start, end) of each run of resident pages in it.
    """

    start: int
    words: Words
    present: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.start + len(self.words) * WORD_BYTES

    def resident_below(self, addresses: Places) -> Places:
        """Bytes of the window that are resident below each address; linear inside of a page."""
        return resident_below(self.present, addresses)


class HeapMemory(Closing):
    """Reads one process; a context manager.

    Args:
        pid: The process.

    Attributes:
        n_bytes: Read so far.

    Raises:
        TargetGoneError: There is no such process.
        CannotTraceError: Its memory may not be read with these rights.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.n_bytes = 0
        self._residency = ResidencyReader(pid)
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

    def present_runs(self, start: int, end: int, *, skips_files: bool = False) -> list[tuple[int, int]]:
        """(start, end) of each run of resident pages; see ``ResidencyReader``."""
        return self._residency.present_runs(start, end, skips_files=skips_files)

    def resident_bytes(self, start: int, end: int) -> int:
        """Bytes in memory between two addresses, in whole pages."""
        return self._residency.resident_bytes([(start, end)])[0]

    def window(self, start: int, end: int) -> Window:
        """The pages from ``start`` to ``end``; what cannot be read is absent."""
        first = start // PAGE_BYTES * PAGE_BYTES
        last = -(-end // PAGE_BYTES) * PAGE_BYTES
        words = np.zeros((last - first) // WORD_BYTES, np.uint64)
        target = memoryview(words.data).cast("B")
        present = []
        for low, high in self._residency.present_runs(first, last):
            n_read = self._read_into(target[low - first : high - first], low)
            if n_read:
                present.append((low, low + n_read))
        return Window(first, words, tuple(present))

    def words(self, address: int, n_words: int) -> Words:
        """Exactly ``n_words`` at an address that is a multiple of 8.

        Raises:
            HeapError: Some of them are not resident, or not mapped.
        """
        end = address + n_words * WORD_BYTES
        if address % WORD_BYTES or not 0 < address < end < 1 << 47:
            raise HeapError(f"reading {n_words} words at {address:#x} failed: no such address")
        first, last = address // PAGE_BYTES * PAGE_BYTES, -(-end // PAGE_BYTES) * PAGE_BYTES
        if self._residency.present_runs(first, last) != [(first, last)]:
            raise HeapError(f"reading {n_words} words at {address:#x} failed: not resident")
        words = np.zeros(n_words, np.uint64)
        if self._read_into(memoryview(words.data).cast("B"), address) != n_words * WORD_BYTES:
            raise HeapError(f"reading {n_words} words at {address:#x} failed: not all of it is mapped")
        return words

    def heads(self, addresses: Sequence[int]) -> list[tuple[int, int]]:
        """The first two words at each address, (0, 0) where they cannot be read; the pages must be resident."""
        heads: list[tuple[int, int]] = []
        while len(heads) < len(addresses):
            part = addresses[len(heads) : len(heads) + _HEADS_A_CALL]
            found = self._scattered(part)
            heads += found or [(0, 0)]
        return heads

    def _scattered(self, addresses: Sequence[int]) -> list[tuple[int, int]]:
        """The first two words at each address up to one that cannot be read, by process_vm_readv(2)."""
        words = np.zeros(2 * len(addresses), np.uint64)
        remote = np.empty((len(addresses), 2), np.uint64)
        remote[:, 0] = addresses
        remote[:, 1] = 2 * WORD_BYTES
        local = np.array([words.ctypes.data, words.nbytes], np.uint64)
        n_bytes = _libc.process_vm_readv(
            ctypes.c_int(self.pid),
            ctypes.c_void_p(local.ctypes.data), ctypes.c_ulong(1),
            ctypes.c_void_p(remote.ctypes.data), ctypes.c_ulong(len(addresses)), ctypes.c_ulong(0),
        )  # fmt: skip
        n_heads = max(0, int(n_bytes)) // (2 * WORD_BYTES)
        self.n_bytes += 2 * WORD_BYTES * n_heads
        pairs = words.reshape(-1, 2)[:n_heads].tolist()
        return [(first, second) for first, second in pairs]

    def _read_into(self, target: memoryview, address: int) -> int:
        n_read = read_into(self._fd, target, address)
        self.n_bytes += n_read
        return n_read


def resident_below(runs: Sequence[tuple[int, int]], addresses: Places) -> Places:
    """Bytes of these runs that lie below each address."""
    if not runs:
        return np.zeros(len(addresses), np.int64)
    starts = np.array([start for start, _ in runs], np.int64)
    sizes = np.array([end - start for start, end in runs], np.int64)
    before = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    index = np.searchsorted(starts, addresses, side="right") - 1
    inside = np.clip(addresses - starts[index], 0, sizes[index])
    return np.where(index < 0, 0, before[index] + inside)
