"""The memory of the targets beside what the engine counts: limits and sums at each snapshot, a split by use at times.

Caveat: a peak between two snapshots is known by its size alone (VmHWM), not by its use.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from nativeleak.closing import Closing
from nativeleak.engines.base import Engine
from nativeleak.errors import NativeleakError
from nativeleak.model import Limit, LimitKind, LimitUse, MemoryLine, MemoryReading, ProcessMemory, Snapshot, TargetEnd
from nativeleak.process import procfs
from nativeleak.process.limits import ProcessLimits, kib_field

_PAUSE_FACTOR: Final = 100
"""Times its own duration that a reading of smaps is not repeated for: it holds up mmap in the target."""
_HIGHER: Final = 1.05
_HIGHER_BYTES: Final = 1 << 20
"""A new peak is read when resident memory is higher than at the last one by both: a logarithmic number of readings."""


class MemoryWatch(Closing):
    """Adds to snapshots what is known of the targets' memory; a context manager, since it holds files open.

    Args:
        engine: Observes the targets; it has started.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits: dict[int, ProcessLimits] = {}
        self._runtime_limits: dict[int, tuple[Limit, ...]] = {}
        self._last: dict[int, MemoryReading] = {}
        self._new: list[MemoryReading] = []
        self._peak_bytes = 0
        self._next_s = 0.0
        self._final: tuple[list[LimitUse], list[ProcessMemory]] | None = None
        for info in engine.targets:
            self._limits[info.slot] = ProcessLimits(info.pid, info.slot)
            self._runtime_limits[info.slot] = tuple(engine.runtime_limits(info.slot))
        self.read_lines()

    def add_to(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with limits and sums of the targets, and with a reading where memory is higher than ever."""
        limits, processes = self._final or self._look()
        rss_bytes = sum(process.rss_bytes for process in processes)
        is_higher = rss_bytes > self._peak_bytes * _HIGHER + _HIGHER_BYTES
        if is_higher and self._final is None and time.monotonic() >= self._next_s:
            self.read_lines()
        readings, self._new = tuple(self._new), []
        return replace(snapshot, limits=tuple(limits), processes=tuple(processes), readings=readings)

    def look_last(self) -> None:
        """Read all for the last snapshot, which is made only after the engine has stopped."""
        self._final = self._look()
        self.read_lines()

    def _look(self) -> tuple[list[LimitUse], list[ProcessMemory]]:
        """Limits and sums of the targets that live."""
        limits: list[LimitUse] = []
        processes: list[ProcessMemory] = []
        for info in self._engine.targets:
            status = self._status(info.pid) if info.end is TargetEnd.RUNNING else {}
            if not status:
                continue
            limits += self._limits[info.slot].read(status)
            limits += [self._runtime_use(limit) for limit in self._runtime_limits[info.slot]]
            processes.append(_sums(info.slot, status))
        return limits, processes

    def read_lines(self) -> None:
        """Read what the resident memory of each target is used for; the next snapshot takes it along."""
        started_s, elapsed_s = time.monotonic(), self._engine.elapsed_s
        found: list[MemoryReading] = []
        for info in self._engine.targets:
            if info.end is not TargetEnd.RUNNING:
                continue
            try:
                lines = self._engine.memory_lines(info.slot)
            except NativeleakError:
                continue  # it is gone, or may not be read
            if any(lines.values()):
                found.append(MemoryReading(info.slot, elapsed_s, lines))
        self._new += found
        self._last.update((reading.slot, reading) for reading in found)
        self._peak_bytes = max(self._peak_bytes, sum(reading.rss_bytes for reading in found))
        ended_s = time.monotonic()
        self._next_s = ended_s + _PAUSE_FACTOR * (ended_s - started_s)

    def close(self) -> None:
        """Close the files."""
        for limits in self._limits.values():
            limits.close()

    def _runtime_use(self, limit: Limit) -> LimitUse:
        """Of the Java heap what was resident when it was last read; how much direct buffers take is not known."""
        reading = self._last.get(limit.slot)
        if limit.kind is not LimitKind.JAVA_HEAP or reading is None:
            return LimitUse(limit, None)
        return LimitUse(limit, reading.lines.get(MemoryLine.JAVA_HEAP))

    @staticmethod
    def _status(pid: int) -> Mapping[str, str]:
        try:
            status = procfs.read_status(pid)
        except NativeleakError:
            return {}
        return status if "VmRSS" in status else {}  # a zombie has none


def _sums(slot: int, status: Mapping[str, str]) -> ProcessMemory:
    rss, anon, swap, peak = (kib_field(status, name) or 0 for name in ("VmRSS", "RssAnon", "VmSwap", "VmHWM"))
    n_threads = status.get("Threads", "0")
    return ProcessMemory(slot, rss, anon, swap, peak, int(n_threads) if n_threads.isdigit() else 0)
