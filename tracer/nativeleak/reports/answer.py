"""The answer of a report: what grows, what holds memory, and how resident memory went.

It is looked for when a format asks for it: formats that list sites and nothing else do without.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from nativeleak.analysis.curves import MIN_WATCHED_PCT, Span
from nativeleak.analysis.finding import Finding, Findings
from nativeleak.analysis.findings import find
from nativeleak.analysis.growth import Growth, Verdict, course, resident_estimate
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.rows import Table, sums_by
from nativeleak.analysis.select import Metric, Selection, keep_functions, keep_threads
from nativeleak.analysis.table import UNKNOWN_THREAD, unmap_table
from nativeleak.model import Owner, Stack
from nativeleak.recording import Recording
from nativeleak.reports.memory import MemoryReport, memory_report
from nativeleak.reports.report import Resident, ThreadReport, UnmapReport
from nativeleak.reports.rows import is_shown
from nativeleak.reports.stacks import Stacks, stack_id
from nativeleak.reports.stages import begin


class Answer:
    """What a report answers, while its recording is open.

    Args:
        recording: Where all courses come from.
        program: The selected sites, without what allocators mapped for themselves.
        paths: With the paths of all their stacks.
        selection: What is asked for.
        stacks: Where stacks are got from.
        span: The snapshots to look at.

    Raises:
        RecordingError: Of each attribute: the recording is damaged.
    """

    def __init__(
        self,
        recording: Recording,
        program: Table,
        paths: Paths,
        selection: Selection,
        stacks: Stacks,
        span: Span,
    ) -> None:
        self._recording, self._program, self._paths = recording, program, paths
        self._selection, self._stacks, self._span = selection, stacks, span

    def find(self) -> None:
        """Find all of it now: it is then there when the recording is closed."""
        for name in ("_found", "resident", "growth", "memory", "threads", "unmapped", "guessed"):
            getattr(self, name)

    @property
    def suspects(self) -> tuple[Finding, ...]:
        """What grows for certain, fastest first."""
        return self._found.suspects

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds something and does not grow for certain, largest first."""
        return self._found.others

    @cached_property
    def growth(self) -> Growth:
        """Of all that was seen; of resident memory, without a verdict, where too little was watched."""
        found = self._found
        return _process_growth(found.growth, self.resident, self._span, has_suspects=bool(found.suspects))

    @cached_property
    def resident(self) -> Resident | None:
        """Resident memory, first and last known; None where it is unknown."""
        return _resident(self._recording)

    @cached_property
    def memory(self) -> MemoryReport:
        """Limits, resident memory by use, and the number of threads."""
        begin("reading the memory", 0.75)
        return memory_report(self._recording)

    @cached_property
    def threads(self) -> tuple[ThreadReport, ...]:
        """Threads that are alive or hold outstanding memory, largest first."""
        return _threads(self._recording, self._holding)

    @cached_property
    def unmapped(self) -> tuple[UnmapReport, ...] | None:
        """Callers that unmapped memory, most first; None where the engine cannot see them."""
        return _unmapped(self._recording, self._selection, self._stacks)

    @cached_property
    def guessed(self) -> dict[str, int]:
        """Outstanding bytes at stacks with a guessed caller, by the module whose unwind information is missing."""
        return _guessed(self._paths, self._holding)

    @cached_property
    def _found(self) -> Findings:
        begin("looking for causes", 0.45)
        return find(self._recording, self._program, self._paths, self._span)

    @cached_property
    def _holding(self) -> Table:
        return self._program.where(is_shown(self._program, Metric.OUTSTANDING))


def _process_growth(growth: Growth | None, resident: Resident | None, span: Span, *, has_suspects: bool) -> Growth:
    """Growth of all that was seen; of resident memory, without a verdict, where too little was watched.

    Windows prove growth where they name who grows. They do not prove that nothing does.
    """
    if span.in_windows and resident is not None:
        verdict = Verdict.GROWING if has_suspects else Verdict.UNKNOWN
        return replace(resident.growth, verdict=verdict, enough_s=None)
    if span.watched_pct < MIN_WATCHED_PCT:
        seen = resident.growth if resident is not None else Growth(0.0, 0.0, 0.0, Verdict.UNKNOWN)
        return replace(seen, verdict=Verdict.UNKNOWN, enough_s=None)
    return growth or Growth(0.0, 0.0, 0.0, Verdict.STEADY)


def _unmapped(recording: Recording, selection: Selection, stacks: Stacks) -> tuple[UnmapReport, ...] | None:
    """Callers that pass the selection's thread and function filters; they are no sites, so none is merged or cut."""
    if recording.unmapped is None or not recording.info.coverage.has_unmappers:
        return None
    pids = {target.slot: target.pid for target in recording.targets}
    table = keep_threads(unmap_table(recording), selection.thread)
    chosen = keep_functions(table, selection.function, recording.stack)
    rows = []
    for totals, tid, thread in zip(
        (recording.unmapped[i] for i in chosen.index.tolist()),
        chosen["tid"].tolist(),
        chosen["thread"].tolist(),
        strict=True,
    ):
        is_allocators = totals.owner is Owner.ALLOCATOR and not totals.stack_key
        stack = Stack(0, ()) if is_allocators else stacks.stack(totals.stack_key)
        rows.append(UnmapReport(stack_id(stack), totals, pids.get(totals.slot, 0), tid, thread, stack))
    return tuple(sorted(rows, key=_by_given))


def _by_given(row: UnmapReport) -> tuple[int, ...]:
    return -row.given_bytes, -row.totals.reserved_bytes, -row.totals.n_calls, row.totals.slot, row.totals.number


def _guessed(paths: Paths, holding: Table) -> dict[str, int]:
    """Bytes at stacks with a guessed or missing caller, by the module of the first frame without unwind information."""
    keys, (sums,) = sums_by(holding["stack_key"], holding["outstanding_bytes"])
    guessed: dict[str, int] = {}
    for key, n_bytes in zip(keys.tolist(), sums.tolist(), strict=True):
        module = paths.unsure_module(key)
        if module is not None:
            guessed[module] = guessed.get(module, 0) + n_bytes
    return guessed


def _threads(recording: Recording, holding: Table) -> tuple[ThreadReport, ...]:
    """One row a TID: sites of a report know a thread by its TID only. Its last thread gives the name."""
    tids, sums = sums_by(holding["tid"], holding["outstanding_bytes"], holding["outstanding_count"])
    n_bytes, n_blocks = (dict(zip(tids.tolist(), each.tolist(), strict=True)) for each in sums)
    latest = {thread.tid: thread for _, thread in sorted(recording.threads.items())}
    rows = []
    for tid in latest.keys() | n_bytes.keys():
        thread = latest.get(tid)
        # TID 0 stands for threads beyond the limit: it is no thread of its own.
        if tid in n_bytes or (thread is not None and thread.alive and tid):
            name, alive = (thread.name, thread.alive) if thread else (UNKNOWN_THREAD, False)
            rows.append(ThreadReport(tid, name, alive, n_bytes.get(tid, 0), n_blocks.get(tid, 0)))
    return tuple(sorted(rows, key=lambda row: (-row.outstanding_bytes, -row.outstanding_count, row.tid)))


def _resident(recording: Recording) -> Resident | None:
    known = [i for i, snapshot in enumerate(recording.snapshots) if snapshot.rss_bytes > 0]
    if not known:
        return None
    first, last = known[0], known[-1]
    estimate = resident_estimate(recording)
    return Resident(
        first_bytes=recording.snapshots[first].rss_bytes,
        last_bytes=recording.snapshots[last].rss_bytes,
        explained_bytes=estimate[last] - estimate[first],
        growth=course(
            [recording.snapshots[i].elapsed_s for i in known], [recording.snapshots[i].rss_bytes for i in known]
        ),
    )
