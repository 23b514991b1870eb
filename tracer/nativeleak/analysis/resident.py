"""Resident memory as a sum of named lines: at the start, at the end, and where it was highest.

The recorder splits resident memory by what maps it (``MemoryLine``). Here the memory of allocators is split once more,
into the blocks that are live and the rest: memory that an allocator keeps, or blocks from before the trace. Blocks that
were never touched are not resident, so that live blocks count at most what their allocator has in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from nativeleak.errors import UsageError
from nativeleak.model import Kind, Level, MemoryLine, Owner
from nativeleak.recording import Recording
from nativeleak.units import parse_duration


class ResidentLine(StrEnum):
    """Use of resident memory; the values are those of the JSON report."""

    LIVE = "live"
    RETAINED = "retained"
    JAVA_HEAP = "java-heap"
    JVM = "jvm"
    MAPPED = "mapped"
    STACKS = "stacks"
    FILES = "files"
    SHARED = "shared"
    UNEXPLAINED = "unexplained"


_SAME: Final = {
    MemoryLine.JAVA_HEAP: ResidentLine.JAVA_HEAP,
    MemoryLine.JVM: ResidentLine.JVM,
    MemoryLine.MAPPED: ResidentLine.MAPPED,
    MemoryLine.STACKS: ResidentLine.STACKS,
    MemoryLine.FILES: ResidentLine.FILES,
    MemoryLine.SHARED: ResidentLine.SHARED,
    MemoryLine.UNEXPLAINED: ResidentLine.UNEXPLAINED,
}
_WATCHED: Final = frozenset({Level.EXACT, Level.SAMPLED})


@dataclass(frozen=True, slots=True)
class Moment:
    """Resident memory of all targets at one moment.

    Attributes:
        elapsed_s: Seconds since the trace began.
        lines: Every line, in bytes; they add up to ``rss_bytes``.
        untouched_bytes: Live blocks that are not in memory.
        is_watched: Whether the blocks inside of allocators were watched then.
    """

    elapsed_s: float
    lines: Mapping[ResidentLine, int]
    untouched_bytes: int
    is_watched: bool

    @property
    def rss_bytes(self) -> int:
        """All resident memory."""
        return sum(self.lines.values())


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """Resident memory of all targets over the trace.

    Attributes:
        peak_bytes: The most that was resident: seen by a snapshot or a reading, or by the kernel between two of them.
        peak_at_s: When, seconds since the trace began; for a peak between two snapshots the time of the later one.
        is_between: The peak lay between two snapshots: its use is not known.
        start, peak, end: Split by use; the peak is the highest of the readings. None where nothing was read.
    """

    start_bytes: int
    end_bytes: int
    peak_bytes: int
    peak_at_s: float
    is_between: bool
    start: Moment | None
    peak: Moment | None
    end: Moment | None

    @property
    def is_above_end(self) -> bool:
        """Whether the peak was so far above the end that no word on the end is the whole truth."""
        return self.peak_bytes - self.end_bytes > max(_MIN_PEAK_BYTES, _PEAK_SHARE * self.end_bytes)


_MIN_PEAK_BYTES: Final = 4 << 20
_PEAK_SHARE: Final = 0.25


def resident_memory(recording: Recording) -> ResidentMemory | None:
    """Resident memory of the targets together; None where no snapshot knows it."""
    known = [(snapshot.elapsed_s, snapshot.rss_bytes) for snapshot in recording.snapshots if snapshot.rss_bytes > 0]
    moments = _moments(recording)
    if not known:
        return None
    course = [*known, *((moment.elapsed_s, moment.rss_bytes) for moment in moments)]
    peak_at_s, peak_bytes = max(course, key=lambda each: each[1])
    between_s, between_bytes = _peak_between(recording)
    is_between = between_bytes > peak_bytes + max(_MIN_PEAK_BYTES, peak_bytes // 50)
    return ResidentMemory(
        start_bytes=min(course)[1],
        end_bytes=max(course)[1],
        peak_bytes=between_bytes if is_between else peak_bytes,
        peak_at_s=between_s if is_between else peak_at_s,
        is_between=is_between,
        start=moments[0] if moments else None,
        peak=max(moments, key=lambda moment: moment.rss_bytes, default=None),
        end=moments[-1] if moments else None,
    )


def resident_course(recording: Recording) -> list[Moment]:
    """Resident memory of the targets together, split by use, at every reading; empty where it was not read.

    Raises:
        RecordingError: The recording is damaged.
    """
    return _moments(recording)


def peak_snapshot(recording: Recording) -> int | None:
    """Number of the snapshot with the most resident memory; None where none is known."""
    sizes = [snapshot.rss_bytes for snapshot in recording.snapshots]
    return sizes.index(max(sizes)) if sizes and max(sizes) > 0 else None


def snapshot_at(recording: Recording, moment: str) -> int:
    """Number of the snapshot that a moment names: ``peak``, ``end``, or a time since the start of the trace.

    Raises:
        UsageError: It is not one of these, or the recording has no snapshot.
    """
    if not recording.snapshots:
        raise UsageError(f"--at {moment}: the recording ends before its first snapshot", "trace again, for longer")
    if moment == "end":
        return len(recording.snapshots) - 1
    if moment == "peak":
        number = peak_snapshot(recording)
        return len(recording.snapshots) - 1 if number is None else number
    try:
        at_s = parse_duration(moment)
    except ValueError as error:
        raise UsageError(f"--at {moment}: {error}", "give peak, end, or a time since the start: 90s, 1h30m") from error
    times = [abs(snapshot.elapsed_s - at_s) for snapshot in recording.snapshots]
    return times.index(min(times))


def _peak_between(recording: Recording) -> tuple[float, int]:
    """When the kernel's high-water mark of one target rose last, and how high; 0 bytes where it did not.

    Of several targets no sum is known: their marks are of different moments.
    """
    memory = recording.memory
    if len(recording.targets) != 1:
        return 0.0, 0
    marks = [
        (recording.snapshots[number].elapsed_s, processes[0].peak_rss_bytes)
        for number, processes in sorted(memory.processes.items())
        if number < len(recording.snapshots)
    ]
    if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
        return 0.0, 0
    return next(each for each in marks if each[1] == marks[-1][1])


def _moments(recording: Recording) -> list[Moment]:
    """The readings of all targets at one time as one; live blocks are those of the nearest snapshot."""
    by_time: dict[float, dict[MemoryLine, int]] = {}
    slots: dict[float, set[int]] = {}
    for reading in recording.memory.readings:
        # Targets are read one after the other, at the time of the first.
        sums = by_time.setdefault(reading.elapsed_s, dict.fromkeys(MemoryLine, 0))
        slots.setdefault(reading.elapsed_s, set()).add(reading.slot)
        for line, n_bytes in reading.lines.items():
            sums[line] += n_bytes
    times = sorted(by_time)
    heaps = _heap_at(recording, times)
    return [_moment(recording, at_s, by_time[at_s], heap) for at_s, heap in zip(times, heaps, strict=True)]


def _moment(recording: Recording, at_s: float, lines: Mapping[MemoryLine, int], heap: tuple[int, int]) -> Moment:
    of_program, of_runtime = heap
    pool = lines[MemoryLine.ALLOCATOR]
    live = min(pool, of_program)
    of_jvm = min(pool - live, of_runtime)
    named = dict.fromkeys(ResidentLine, 0)
    named |= {_SAME[line]: n_bytes for line, n_bytes in lines.items() if line in _SAME}
    named[ResidentLine.LIVE] = live
    named[ResidentLine.RETAINED] = pool - live - of_jvm
    named[ResidentLine.JVM] += of_jvm
    return Moment(at_s, named, of_program - live, _is_watched(recording, at_s))


def _is_watched(recording: Recording, at_s: float) -> bool:
    if "malloc" not in recording.info.probes:
        return False
    levels = [window.level for window in recording.windows if window.from_s <= at_s <= window.to_s]
    return all(level in _WATCHED for level in levels)


def _heap_at(recording: Recording, times: Sequence[float]) -> list[tuple[int, int]]:
    """Outstanding heap bytes of the program and of the runtime at the snapshots nearest to some times."""
    if not times:
        return []
    sites = recording.site_columns
    is_heap = np.array(sites.kind, dtype=object) == Kind.HEAP.value
    of_runtime = np.array(sites.owner, dtype=object) == Owner.RUNTIME.value
    now = np.zeros(len(sites))
    moments = [0.0, *(snapshot.elapsed_s for snapshot in recording.snapshots)]
    nearest = [int(np.abs(np.array(moments) - at_s).argmin()) for at_s in times]
    found: dict[int, tuple[int, int]] = {0: (0, 0)}
    for number, samples in enumerate(recording.samples(), start=1):
        now[np.asarray(samples.site_id)] = np.asarray(samples.outstanding_bytes)
        if number in nearest:
            found[number] = int(now[is_heap & ~of_runtime].sum()), int(now[is_heap & of_runtime].sum())
    return [found[number] for number in nearest]
