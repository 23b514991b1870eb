"""Bytes of a running process, block by block, in bounded memory; only pages that are in memory are read.

Scope: reads through /proc/PID/mem. The kernel copies a page at a time, and the process goes on meanwhile; a page that
is neither in memory nor asked for is never touched. Between the kernel's answer about a page and the read of it lie
microseconds, because residency is asked for one MiB at a time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from nativeleak.closing import Closing
from nativeleak.errors import NativeleakError
from nativeleak.peek.ranges import Span
from nativeleak.process.memory import open_memory
from nativeleak.process.residency import ResidencyReader

BLOCK_BYTES: Final = 64 << 10
_WINDOW_BYTES: Final = 1 << 20
_COUNT_BYTES: Final = 1 << 30


class Block(NamedTuple):
    """Bytes that follow each other.

    Attributes:
        address: Of the first one.
        data: Up to a MiB of them.
        follows: They continue the block before, without a gap.
        is_cut: The byte before the first one may belong to the same text, and was not read.
    """

    address: int
    data: bytes
    follows: bool
    is_cut: bool


class PresentMemory(Closing):
    """Memory of one process; a context manager.

    Args:
        pid: The process.
        use_scan: Whether ``PAGEMAP_SCAN`` may be used; False only to test the other source.

    Attributes:
        read_bytes: Read so far.
        failed_bytes: In memory when asked, and not readable a moment later: unmapped, or the process has ended.

    Raises:
        TargetGoneError: There is no such process.
        CannotTraceError: Its memory may not be read with these rights.
    """

    def __init__(self, pid: int, *, use_scan: bool = True) -> None:
        self.read_bytes = 0
        self.failed_bytes = 0
        self._fd = -1
        self._residency = ResidencyReader(pid, use_scan=use_scan)
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

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, or runs another program: what was not read by then is lost."""
        return self._residency.has_ended()

    def resident_bytes(self, pieces: Sequence[tuple[int, int]]) -> int:
        """Bytes of these ranges that are in memory, to the byte at their ends."""
        return sum(high - low for start, end in pieces for low, high in self._runs(start, end, _COUNT_BYTES))

    def whole(self, span: Span) -> Iterator[Block]:
        """All that is in memory of a span, in address order."""
        last, starts = -1, span.mapping_starts
        for start, end in span.pieces():
            for low, high in self._runs(start, end, _WINDOW_BYTES):
                data = self._read(low, high - low)
                if data:
                    yield Block(low, data, low == last, low != last and low not in starts)
                    last = low + len(data)

    def sample(self, span: Span, one_in: int) -> Iterator[Block]:
        """One of every ``one_in`` blocks of 64 KiB of what is in memory of a span, in address order.

        Blocks are counted in what is in memory: absent pages cost nothing. The place among ``one_in`` is a random one,
        always the same for the same range, so that a pattern in the memory cannot fall in step with the sample.
        """
        behind, last, starts = 0, -1, span.mapping_starts
        chance = random.Random(span.start)
        group, chosen = 0, chance.randrange(one_in) * BLOCK_BYTES
        for start, end in span.pieces():
            for low, high in self._runs(start, end, _COUNT_BYTES):
                # In bytes that are in memory, this run is from ``behind`` to ``stop``.
                stop = behind + high - low
                while chosen < stop:
                    if chosen + BLOCK_BYTES > behind:
                        first = low + max(chosen, behind) - behind
                        for address, until in self._runs(
                            first, min(high, low + chosen + BLOCK_BYTES - behind), _WINDOW_BYTES
                        ):
                            data = self._read(address, until - address)
                            if data:
                                yield Block(address, data, address == last, address != last and address not in starts)
                                last = address + len(data)
                    if chosen + BLOCK_BYTES > stop:
                        break  # the rest of the block lies in the next run
                    group += 1
                    chosen = (group * one_in + chance.randrange(one_in)) * BLOCK_BYTES
                behind = stop

    def _runs(self, start: int, end: int, window_bytes: int) -> Iterator[tuple[int, int]]:
        """Runs of pages in memory, cut at the ends of the range and of windows."""
        while start < end:
            stop = min(end, start - start % window_bytes + window_bytes)
            for low, high in self._residency.present_runs(start, stop):
                yield max(low, start), min(high, stop)
            start = stop

    def _read(self, address: int, n_bytes: int) -> bytes:
        parts: list[bytes] = []
        left = n_bytes
        while left:
            try:
                data = os.pread(self._fd, left, address + n_bytes - left)
            except OSError:
                break
            if not data:
                break
            parts.append(data)
            left -= len(data)
        self.failed_bytes += left
        self.read_bytes += n_bytes - left
        return parts[0] if len(parts) == 1 else b"".join(parts)
