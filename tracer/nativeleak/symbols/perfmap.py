"""Names of JIT-compiled code that the target itself writes to /tmp/perf-PID.map.

Scope: reading the file and looking up addresses. Anybody may write to /tmp: a file that does not belong to the target's
user or to root is not read, nor one behind a symbolic link.

Source: tools/perf/Documentation/jit-interface.txt: lines of ``START SIZE NAME``, numbers in hex without 0x. A line
is written when its code is compiled, so that the later of two lines for one address is valid.
"""

from __future__ import annotations

import array
import heapq
import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from nativeleak.process.namespaces import open_in_root

MAX_PERF_MAP_BYTES: Final = 64 << 20
"""Maximum bytes that are read, from the end of the file, which has the latest code."""
MAX_PERF_MAP_LINES: Final = 1 << 18
"""Maximum lines, from the end: each takes 100 bytes for a moment, and the target may write any number."""

# 200,000 lines take 0.8 s: a target that compiles all the time must not keep the tracer parsing all the time.
_CHEAP_S: Final = 0.05
_REST_FACTOR: Final = 20
_MAX_NAME_BYTES: Final = 4096
_LINE: Final = re.compile(rb"^(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (.+)$", re.MULTILINE)


class PerfMapTable:
    """Code by address: pieces that do not overlap, each with the line that describes it.

    Args:
        text: The text of the map; it is kept, because names are read from it on demand.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text = _last_lines(text)
        self._line_starts = array.array("Q")
        self._names = array.array("I")
        line_ends = array.array("Q")
        for match in _LINE.finditer(text):
            start, size = int(match[1], 16), int(match[2], 16)
            if size and start + size < 1 << 64:
                self._line_starts.append(start)
                line_ends.append(start + size)
                self._names.append(match.start(3))
        self._starts, self._ends, self._lines = _pieces(self._line_starts, line_ends)

    def __len__(self) -> int:
        return len(self._starts)

    def lookup(self, ip: int) -> tuple[str, int] | None:
        """Name of the code at an address and the offset from its start; None if unknown."""
        index = bisect_right(self._starts, ip) - 1
        if index < 0 or ip >= self._ends[index]:
            return None
        line = self._lines[index]
        begin = self._names[line]
        end = self._text.find(b"\n", begin, begin + _MAX_NAME_BYTES)
        name = self._text[begin : end if end >= 0 else begin + _MAX_NAME_BYTES]
        return name.decode("utf-8", "replace"), ip - self._line_starts[line]


def parse_perf_map(text: bytes) -> PerfMapTable:
    """The table of a perf map; invalid lines are left out."""
    return PerfMapTable(text)


class PerfMap:
    """The perf map of one process, read again whenever it has changed.

    Args:
        pid: The process, by its PID in our namespace.
        ns_pid: Its PID in its own namespace, which is in the name of the file.
        uid: The user it runs as.
    """

    def __init__(self, pid: int, ns_pid: int, uid: int) -> None:
        self._pid = pid
        self._names = tuple(dict.fromkeys((f"/tmp/perf-{ns_pid}.map", f"/tmp/perf-{pid}.map")))  # noqa: S108
        self._owners = (uid, 0)
        self._stamp: tuple[str, int, int, int] | None = None
        self._table = parse_perf_map(b"")
        self._rest_until_s = 0.0

    def refresh(self) -> bool:
        """Read the file again if it has changed; earlier names stay if the file is gone.

        After parsing, the file is not read again for twenty times the parsing time.

        Returns:
            Whether it was read.
        """
        if time.monotonic() < self._rest_until_s:
            return False
        for name in self._names:
            try:
                fd = open_in_root(self._pid, name, follow_last=False)
            except OSError:
                continue
            try:
                return self._read(name, fd)
            except OSError:
                continue
            finally:
                os.close(fd)
        return False

    def lookup(self, ip: int) -> tuple[str, int] | None:
        """Name of the code at an address and the offset from its start; None if unknown."""
        return self._table.lookup(ip)

    def _read(self, name: str, fd: int) -> bool:
        facts = os.fstat(fd)
        stamp = (name, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if facts.st_uid not in self._owners or stamp == self._stamp:
            return False
        skip = max(0, facts.st_size - MAX_PERF_MAP_BYTES)
        with open(fd, "rb", closefd=False) as file:
            file.seek(skip)
            text = file.read(MAX_PERF_MAP_BYTES)
        if skip:
            text = text[text.find(b"\n") + 1 :]
        begin_s = time.monotonic()
        self._table = parse_perf_map(text)
        self._stamp = stamp
        end_s = time.monotonic()
        if end_s - begin_s > _CHEAP_S:
            self._rest_until_s = end_s + _REST_FACTOR * (end_s - begin_s)
        return True


def _last_lines(text: bytes) -> bytes:
    if text.count(b"\n") <= MAX_PERF_MAP_LINES:
        return text
    return text[len(text.rsplit(b"\n", MAX_PERF_MAP_LINES)[0]) + 1 :]


def _pieces(
    starts: array.array[int], ends: array.array[int]
) -> tuple[array.array[int], array.array[int], array.array[int]]:
    """Start, end and number of line of pieces without overlaps, by address: where lines overlap the last one holds."""
    order = sorted(range(len(starts)), key=starts.__getitem__)
    if all(ends[left] <= starts[right] for left, right in pairwise(order)):
        pieces = [(starts[line], ends[line], line) for line in order]
    else:
        pieces = list(_flattened(order, starts, ends))
    columns = zip(*pieces, strict=True) if pieces else ((), (), ())
    first, last, lines = columns
    return array.array("Q", first), array.array("Q", last), array.array("I", lines)


def _flattened(
    order: Sequence[int], starts: array.array[int], ends: array.array[int]
) -> Iterator[tuple[int, int, int]]:
    """The pieces between all the edges, each with the last line that covers it."""
    active: list[int] = []  # heap of negated line numbers: the last line first
    upcoming = 0
    for left, right in pairwise(sorted({*starts, *ends})):
        while upcoming < len(order) and starts[order[upcoming]] <= left:
            heapq.heappush(active, -order[upcoming])
            upcoming += 1
        while active and ends[-active[0]] <= left:
            heapq.heappop(active)
        if active:
            yield left, right, -active[0]
