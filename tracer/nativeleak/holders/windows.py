"""Resident memory of the target in windows: many short runs of pages a call, whole runs one after the other.

Scope: reads by process_vm_readv(2), which neither stops the target nor maps a page in it, since only pages are read
that the kernel calls resident. A page that is gone by then reads as zeros and is counted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.heaps.memory import WORD_BYTES, Places, Words
from nativeleak.holders.table import Bytes
from nativeleak.process.procfs import PAGE_BYTES

WINDOW_BYTES: Final = 4 << 20
_RUNS_A_CALL: Final = 1000  # IOV_MAX is 1024
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t


@dataclass(frozen=True, slots=True)
class Runs:
    """Pieces of the target's memory in one buffer, in the order in which they were asked for.

    Attributes:
        data: Their bytes.
        addresses: Of each.
        offsets: Of each in ``data``; multiples of 8.
        sizes: Bytes of each; multiples of 8.
        step: Bytes between the places where a pointer may stand: 8 or 4.
    """

    data: Bytes
    addresses: Words
    offsets: Places
    sizes: Places
    step: int = WORD_BYTES


class Reader:
    """Reads one process.

    Args:
        pid: The process.
        window_bytes: Size of a window.

    Attributes:
        n_bytes: Read so far.
        n_missed_bytes: Not there any more when they were read.
    """

    def __init__(self, pid: int, window_bytes: int = WINDOW_BYTES) -> None:
        self.pid = pid
        self.n_bytes = 0
        self.n_missed_bytes = 0
        self._buffer = np.zeros(window_bytes, np.uint8)

    def windows(self, ranges: Iterable[tuple[int, int]], step: int = WORD_BYTES) -> Iterator[Runs]:
        """The contents of ranges of resident memory; starts and ends are multiples of 8. One buffer serves all.

        Smaller steps make smaller windows: whoever looks up the words has room for as many results as there are steps.
        """
        part: list[tuple[int, int, int]] = []
        used, room = 0, max(WORD_BYTES, len(self._buffer) * step // WORD_BYTES // WORD_BYTES * WORD_BYTES)
        for start, end in ranges:
            place = start
            while place < end:
                n = min(room - used, end - place)
                part.append((place, used, n))
                used += n
                place += n
                if used == room or len(part) == _RUNS_A_CALL:
                    yield self._read(part, used, step)
                    part, used = [], 0
        if part:
            yield self._read(part, used, step)

    def words(self, addresses: Words, n_words: int) -> Words:
        """``n_words`` at each address, as rows; zeros where they cannot be read. Their pages must be resident."""
        size = n_words * WORD_BYTES
        found = np.zeros((len(addresses), n_words), np.uint64)
        place = 0
        while place < len(addresses):
            n = min(_RUNS_A_CALL, len(addresses) - place)
            remote = np.empty((n, 2), np.uint64)
            remote[:, 0], remote[:, 1] = addresses[place : place + n], size
            n_read = max(0, self._call(found[place:].ctypes.data, n * size, remote)) // size
            self.n_bytes += n_read * size
            place += n if n_read == n else n_read + 1
        return found

    def _read(self, part: list[tuple[int, int, int]], used: int, step: int) -> Runs:
        runs = np.array(part, np.int64)
        remote = np.ascontiguousarray(runs[:, [0, 2]]).astype(np.uint64)
        n_read = max(0, self._call(self._buffer.ctypes.data, used, remote))
        self.n_bytes += used
        if n_read < used:
            self._buffer[n_read:used] = 0
            self._read_rest(part, n_read)
        return Runs(self._buffer[:used], remote[:, 0].copy(), runs[:, 1].copy(), runs[:, 2].copy(), step)

    def _read_rest(self, part: list[tuple[int, int, int]], n_read: int) -> None:
        """Pages behind one that is gone, each on its own."""
        for address, offset, size in part:
            if offset + size <= n_read:
                continue
            for at in range(max(0, n_read - offset) // PAGE_BYTES * PAGE_BYTES, size, PAGE_BYTES):
                n = min(PAGE_BYTES, size - at)
                remote = np.array([[address + at, n]], np.uint64)
                if self._call(self._buffer.ctypes.data + offset + at, n, remote) < n:
                    self.n_missed_bytes += n

    def _call(self, local: int, n_bytes: int, remote: Words) -> int:
        mine = np.array([local, n_bytes], np.uint64)
        return int(
            _libc.process_vm_readv(
                ctypes.c_int(self.pid), ctypes.c_void_p(mine.ctypes.data), ctypes.c_ulong(1),
                ctypes.c_void_p(remote.ctypes.data), ctypes.c_ulong(len(remote)), ctypes.c_ulong(0),
            )
        )  # fmt: skip
