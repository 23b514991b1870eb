"""A made-up engine for tests of the loop (``session/``): it traces nothing, and fails at the step that a test names."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from nativeleak.engines.base import Progress, Sink
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.registry import EngineSpec
from nativeleak.model import (
    COUNTERS,
    Coverage,
    Frame,
    Kind,
    Limit,
    LimitKind,
    MemoryLine,
    SiteKey,
    SiteTotals,
    Snapshot,
    Stack,
    StackCoverage,
    TargetEnd,
    TargetInfo,
)
from nativeleak.process import procfs

BLOCK_BYTES = 1009


class MadeUpEngine:
    """Reports one site, which grows by ``BLOCK_BYTES`` a snapshot.

    Attributes:
        on_start, on_work, on_snapshot: Called there, and may raise.
        ends_after: Snapshots after which it can observe no longer.
        calls: Names of the methods called, in order, a run of the same once.
    """

    probes = ("made-up",)
    coverage = Coverage(StackCoverage.ALL, has_blocks=False, hits="guesses")
    may_yield = False
    headline = "by imagination"
    details = ("made up for a test",)
    fds: Sequence[int] = ()
    on_start: Callable[[], None] = staticmethod(lambda: None)
    on_work: Callable[[], None] = staticmethod(lambda: None)
    on_snapshot: Callable[[], None] = staticmethod(lambda: None)
    memory = 0
    ends_after = 1 << 30
    urgent = False
    idle_s = 60.0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.n_snapshots = 0
        self.n_readings = 0
        self.ended = ""
        self.targets: list[TargetInfo] = []
        self._started_s = 0.0

    def open(self, _options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> MadeUpEngine:
        self._called("open")
        self.targets, self.sink = list(targets), sink
        return self

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s if self._started_s else 0.0

    def start(self) -> None:
        self._called("start")
        self.on_start()
        self._started_s = time.monotonic()

    def work(self) -> float:
        self._called("work")
        self.on_work()
        if self.n_snapshots >= self.ends_after:
            self.ended = "enough"
        return self.idle_s

    def is_urgent(self) -> bool:
        return self.urgent

    def target_exited(self, slot: int) -> None:
        self._called(f"exited {slot}")
        self.targets[slot] = replace(self.targets[slot], end=TargetEnd.EXITED)

    def progress(self, _n_rows: int) -> Progress:
        return Progress(0, 0)

    def memory_bytes(self) -> int:
        return self.memory

    def memory_lines(self, slot: int) -> dict[MemoryLine, int]:
        self.n_readings += 1
        return dict.fromkeys(MemoryLine, 0) | {MemoryLine.MAPPED: procfs.read_rss(self.targets[slot].pid)}

    def runtime_limits(self, slot: int) -> list[Limit]:
        return [Limit(slot, LimitKind.DIRECT_MEMORY, "imagination", 1 << 30)]

    def freeze(self, near: str) -> None:
        self._called("freeze")
        self.sink.note("memory", f"takes {near}")

    def snapshot(self, *, final: bool = False) -> Snapshot:
        self._called("last snapshot" if final else "snapshot")
        self.on_snapshot()
        self.n_snapshots += 1
        self.sink.add_stacks([Stack(7, (Frame("imagine", "mind.so", 7, 0),))])
        site = SiteTotals(SiteKey(Kind.MAP, 0, 0, 7), self.n_snapshots * BLOCK_BYTES, self.n_snapshots)
        return Snapshot(self.elapsed_s, tuple(self.targets), (), (site,), counters=dict.fromkeys(COUNTERS, 0))

    def stop(self) -> None:
        self._called("stop")

    def close(self) -> None:
        self._called("close")

    def _called(self, name: str) -> None:
        if self.calls[-1:] != [name]:
            self.calls.append(name)


class Said:
    """A reporter that keeps what it is told."""

    def __init__(self, on_attached: Callable[[], None] = lambda: None) -> None:
        self.lines: list[str] = []
        self.n_ticks = 0
        self._on_attached = on_attached

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = note = say

    def attached(self, headline: str, details: Sequence[str], _duration_s: float | None) -> None:
        self.lines += [headline, *details]
        self._on_attached()

    def tick(self, _elapsed_s: float, look: Callable[[int], Progress]) -> None:
        self.n_ticks += 1
        assert look(1).rows == ()


def spec_of(engine: MadeUpEngine, **facts: object) -> EngineSpec:
    row = EngineSpec("made-up", "made-up", engine.coverage, engine.open, lambda _pids: "")
    return replace(row, **facts)  # type: ignore[arg-type]


@contextmanager
def sleepers(n: int = 1) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that live until they are killed."""
    with ExitStack() as stack:
        processes = []
        for _ in range(n):
            process = stack.enter_context(subprocess.Popen(["sleep", "600"]))
            stack.callback(process.kill)
            processes.append(process)
        yield processes
