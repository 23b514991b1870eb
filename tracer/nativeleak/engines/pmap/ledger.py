"""Readings of a process's mappings into its address space: what has come since the last one, by region."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from nativeleak.digest import blake2b
from nativeleak.engines.pmap.differences import Range, ranges_of, without
from nativeleak.engines.pmap.regions import (
    Region,
    Surroundings,
    blocks_by_size,
    malloc_region,
)
from nativeleak.engines.pmap.smaps import Mapping
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess
from nativeleak.ledger.mapping_events import MmapExit, MunmapEntry
from nativeleak.model import Frame, FrameKind, FrameSource, Owner, Stack
from nativeleak.units import format_bytes

_U64: Final = struct.Struct("<Q")
_READ_WRITE: Final = 3
_MAP_ANONYMOUS: Final = 0x20
_MIN_NOTE_BYTES: Final = 1 << 20
_MAX_NOTES: Final = 20
_BEYOND: Final = "memory beyond --max-memory"
NOT_TOLD_APART: Final = "(threads not told apart)"

FindBlocks = Callable[[int, int], Iterable[tuple[int, int]]]


class PmapLedger:
    """What the readings of one process add up to.

    Args:
        process: The target.
        threads: Of all targets.
        find_blocks: Gives (start, end) of malloc's blocks at the start of a range; None: their size identifies them.
    """

    def __init__(self, process: TracedProcess, threads: ThreadTable, find_blocks: FindBlocks | None = None) -> None:
        self.n_readings = 0
        self.is_frozen = False
        """Whether regions of an unknown kind are no longer told apart."""
        self._process = process
        self._threads = threads
        self._find_blocks = find_blocks
        self._ranges: list[Range] = []
        self._keys: dict[str, int] = {}
        self._names: dict[int, Frame] = {}
        self._new: list[Stack] = []
        self._before: dict[str, tuple[int, int]] = {}

    def begin(self, around: Surroundings) -> None:
        """Take the first reading: all of it is from before."""
        self.n_readings += 1
        self._ranges = ranges_of(around.mappings)
        self._process.space.load_baseline(_Entry(*each) for each in self._ranges)
        self._before = self._sums(around)

    def take(self, mappings: Sequence[Mapping], surroundings: Callable[[], Surroundings], time_s: float) -> None:
        """Take another reading.

        Args:
            mappings: All of them, in order of address.
            surroundings: Gives the same mappings with all that is known around them; asked only where something is new.
            time_s: When it was made.
        """
        self.n_readings += 1
        now = ranges_of(mappings)
        for start, end, _ in without(self._ranges, now):
            self._process.space.apply(MunmapEntry(0, start, end - start))
        new = without(now, self._ranges)
        self._ranges = now
        around = surroundings() if new else None
        for each in new:
            for start, end, region in self._parts(each, around or Surroundings(mappings)):
                self._enter(start, end, region, each.what, time_s)

    def growth_notes(self, around: Surroundings) -> list[tuple[str, str]]:
        """What each kind of region has gained since the first reading, in mapped and in resident memory, most first."""
        now = self._sums(around)
        found = []
        for name in now.keys() | self._before.keys():
            (size, rss), (size_before, rss_before) = now.get(name, (0, 0)), self._before.get(name, (0, 0))
            if max(abs(size - size_before), abs(rss - rss_before)) >= _MIN_NOTE_BYTES:
                found.append((abs(rss - rss_before), name, size_before, size, rss_before, rss))
        return [
            (
                "region",
                f"{name}: resident {format_bytes(rss_before)}, then {format_bytes(rss)};"
                f" mapped {format_bytes(size_before)}, then {format_bytes(size)}",
            )
            for _, name, size_before, size, rss_before, rss in sorted(found, reverse=True)[:_MAX_NOTES]
        ]

    def take_stacks(self) -> list[Stack]:
        """A stack for each region seen for the first time: one frame that names it."""
        new, self._new = self._new, []
        return new

    def frames(self, key: int) -> tuple[Frame, ...]:
        """The frame that names a region; empty for an unknown one."""
        return (self._names[key],) if key in self._names else ()

    def _parts(self, each: Range, around: Surroundings) -> Iterator[tuple[int, int, Region]]:
        """The new range, cut where something else begins: at mappings, and at blocks of malloc."""
        for start, end in _cut(each, around):
            region = around.region(start)
            if region.is_certain:
                yield start, end, region
                continue
            for block_start, block_end in self._blocks(start, end):
                yield block_start, block_end, Region(malloc_region(block_end - block_start))
                start = block_end
            if start < end:
                yield start, end, region

    def _blocks(self, start: int, end: int) -> Iterable[tuple[int, int]]:
        if self._find_blocks is not None:
            return self._find_blocks(start, end)
        n = blocks_by_size(end - start)
        each = (end - start) // n if n else 0
        return [(start + i * each, start + (i + 1) * each) for i in range(n)]

    def _enter(self, start: int, end: int, region: Region, file: str, time_s: float) -> None:
        name = region.name.removeprefix("stack of thread ") if region.tid else NOT_TOLD_APART
        thread = self._threads.uid(self._process.slot, region.tid, name)
        event = MmapExit(
            0, start, end - start, _READ_WRITE, _MAP_ANONYMOUS, bool(file), thread, self._key(region), False, time_s
        )
        self._process.space.apply(event)

    def _key(self, region: Region) -> int:
        key = self._keys.get(region.name)
        if key is None and self.is_frozen:
            region = Region(_BEYOND)
            key = self._keys.get(region.name)
        if key is None:
            digest = blake2b(region.name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            key = self._keys[region.name] = _U64.unpack(digest)[0] or 1
            frame = self._names[key] = Frame(f"[{region.name}]", None, 0, 0, FrameKind.STUB, found=FrameSource.GAP)
            self._new.append(Stack(key, (frame,)))
            if region.is_runtime:
                self._process.space.reclassify_stack(key, Owner.RUNTIME)
        return key

    def _sums(self, around: Surroundings) -> dict[str, tuple[int, int]]:
        """(mapped, resident) bytes by kind of region; all threads' stacks together."""
        sums: dict[str, tuple[int, int]] = {}
        for mapping in around.mappings:
            if not mapping.is_accessible:
                continue
            region = around.region(mapping.start)
            name = "stacks of threads" if region.tid else region.name
            size, rss = sums.get(name, (0, 0))
            sums[name] = size + mapping.end - mapping.start, rss + max(0, mapping.rss)
        return sums


class _Entry:
    """A range from before the window, as a line of /proc/PID/maps."""

    def __init__(self, start: int, end: int, path: str) -> None:
        self.start, self.end, self.path, self.perms = start, end, path, "rw-p"


def _cut(each: Range, around: Surroundings) -> Iterator[tuple[int, int]]:
    """The parts of a range by mapping, neighbours of the same region together."""
    part: tuple[int, int, Region] | None = None
    first = max(0, bisect_right(around.starts, each.start) - 1)
    for mapping in around.mappings[first : bisect_left(around.starts, each.end)]:
        start, end = max(each.start, mapping.start), min(each.end, mapping.end)
        if start >= end:
            continue
        region = around.region(start)
        if part is not None and part[1] == start and part[2] == region:
            part = part[0], end, region
            continue
        if part is not None:
            yield part[:2]
        part = start, end, region
    if part is not None:
        yield part[:2]
    else:
        yield each.start, each.end
