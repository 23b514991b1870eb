"""/proc/PID/smaps as an engine: for processes of one's own it takes no rights at all, and it never holds the target up.

Reading smaps is not free for the target: while it is read the kernel holds the lock that mmap and munmap want, 8 to 12
ms for 5,000 mappings, 28 ms for 4 GB in small pages. So it is read no more often than once in 100 times its own
duration; between two readings only what costs microseconds is asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

from nativeleak.engines.base import Sink
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.pmap.blocks import HEADER_BYTES, find_blocks
from nativeleak.engines.pmap.ledger import PmapLedger
from nativeleak.engines.pmap.reading import read_smaps, read_stack_pointers
from nativeleak.engines.pmap.regions import Surroundings
from nativeleak.engines.pmap.smaps import Mapping, parse_smaps
from nativeleak.engines.registry import coverage_of
from nativeleak.engines.strace.malloc_sizes import PAGE
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess, UserspaceEngine, snapshot_of
from nativeleak.errors import NativeleakError
from nativeleak.model import Frame, Snapshot, Stack, TargetEnd, TargetInfo
from nativeleak.process import procfs
from nativeleak.runtimes.registry import open_runtime, spec_of

PAUSE_FACTOR: Final = 100
"""Times its own duration that a reading is not repeated for."""


class PmapEngine(UserspaceEngine):
    """Traces by readings of smaps; see ``Engine``.

    Args:
        options: What to do.
        targets: The processes.
        sink: Gets regions and notes.

    Raises:
        NativeleakError: smaps of one of them may not be read.
    """

    headline = "by pmap"
    probes: tuple[str, ...] = ("smaps",)
    fds: Sequence[int] = ()
    """None: nothing tells of a change."""

    def __init__(self, options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> None:
        super().__init__(targets, sink, coverage_of("pmap"), options.budget)
        self._looks = [_Look(process, self.threads) for process in self.processes]
        self._notes: list[tuple[str, str]] = []

    def start(self) -> None:
        """Take for old what is mapped now."""
        for look in self._looks:
            look.begin()
        self._start_ns = time.monotonic_ns()

    def _take_notes(self) -> list[tuple[str, str]]:
        notes, self._notes = self._notes, []
        return notes

    def _take_stacks(self) -> list[Stack]:
        return [stack for look in self._looks for stack in look.ledger.take_stacks()]

    def _frames(self, slot: int, stack_key: int) -> Sequence[Frame]:
        return self._looks[slot].ledger.frames(stack_key)

    def freeze(self, near: str) -> None:
        """Tell new regions apart no longer."""
        super().freeze(near)
        for look in self._looks:
            look.ledger.is_frozen = True

    def snapshot(self, *, final: bool = False) -> Snapshot:
        """Everything as it is now, or as it was at the last reading where another would come too soon."""
        if not final:
            for look in self._looks:
                look.read(self.elapsed_s)
            self._pass_on()
        return snapshot_of(
            self.processes,
            self.threads,
            self.elapsed_s,
            {
                "smaps_readings": sum(look.ledger.n_readings for look in self._looks),
                "smaps_us": round(sum(look.spent_s for look in self._looks) * 1e6),
            },
            events=sum(look.ledger.n_readings for look in self._looks),
        )

    def stop(self) -> None:
        """Make a last reading, however soon."""
        for look in self._looks:
            look.read(self.elapsed_s, is_last=True)
            self._notes += look.notes()
        self._pass_on()

    def close(self) -> None:
        """Close all files."""
        for look in self._looks:
            look.close()
        for process in self.processes:
            process.close()


class _Look:
    """One process and how it is looked at."""

    def __init__(self, process: TracedProcess, threads: ThreadTable) -> None:
        self.process = process
        self.spent_s = 0.0
        self._pid = process.info.pid
        self._mem = _open_memory(self._pid)
        self.ledger = PmapLedger(process, threads, self._blocks if self._mem is not None else None)
        self._spec = spec_of(process.info.runtime)
        self._runtime = open_runtime(self._pid, self._spec)[0] if self._spec is not None else None
        self._owned = self._runtime.memory() if self._runtime is not None else ()
        self._next_s = 0.0
        self._mappings: list[Mapping] = []
        read_smaps(self._pid)

    def begin(self) -> None:
        self.process.cpu_before_s = procfs.read_cpu_s(self._pid)
        self._mappings = self._read()
        self.ledger.begin(self._surroundings())

    def read(self, now_s: float, *, is_last: bool = False) -> None:
        if (now_s < self._next_s and not is_last) or self.process.is_over:
            return
        started_s = time.monotonic()
        try:
            mappings = self._read()
            exe = procfs.read_exe(self._pid)
        except NativeleakError:
            return  # another way reports its end
        if not exe and self.process.info.exe:
            return  # a zombie has none
        if exe != self.process.info.exe:
            self.process.end(TargetEnd.EXEC)
            return
        self._next_s = now_s + PAUSE_FACTOR * (time.monotonic() - started_s)
        if mappings:
            self._mappings = mappings
            self.ledger.take(mappings, self._surroundings, now_s)

    def notes(self) -> list[tuple[str, str]]:
        return self.ledger.growth_notes(self._surroundings()) if self._mappings else []

    def close(self) -> None:
        if self._mem is not None:
            os.close(self._mem)
            self._mem = None
        if self._runtime is not None:
            self._runtime.close()

    def _read(self) -> list[Mapping]:
        started_s = time.monotonic()
        try:
            return parse_smaps(read_smaps(self._pid))
        finally:
            self.spent_s += time.monotonic() - started_s

    def _surroundings(self) -> Surroundings:
        if self.process.is_over:
            return Surroundings(self._mappings, runtime=self._spec)
        stacks = read_stack_pointers(self._pid, self._runtime.thread_names() if self._runtime is not None else {})
        return Surroundings(self._mappings, stacks, self._owned, self._spec)

    def _blocks(self, start: int, end: int) -> list[tuple[int, int]]:
        return list(find_blocks(start, end, self._read_header))

    def _read_header(self, address: int) -> bytes:
        """The first bytes of a page that is in memory; reading another would bring it in."""
        residency = self.process.residency
        if self._mem is None or residency is None or not residency.resident_bytes([(address, address + PAGE)])[0]:
            return b""
        try:
            return os.pread(self._mem, HEADER_BYTES, address)
        except OSError:
            return b""


def _open_memory(pid: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
