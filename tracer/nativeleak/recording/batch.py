"""Rows of one transaction of the writer: the difference between the recording and a snapshot.

Encoding changes no state, so that a batch whose transaction failed can be written again elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from nativeleak.model import (
    CERTAIN,
    Frame,
    Kind,
    Limit,
    Owner,
    SiteKey,
    SiteTotals,
    Snapshot,
    Stack,
    TargetInfo,
    ThreadInfo,
    UnmapTotals,
)
from nativeleak.recording.schema import JVM, Sample, pack_ids, pack_samples, pack_slices, to_signed
from nativeleak.recording.values import pack_windows

Row = tuple[Any, ...]

_MAX_TOTAL: Final = 1 << 62

_TABLES: Final = {
    "trace": 2,
    "targets": 8,
    "runtimes": 3,
    "unwatched": 6,
    "children": 7,
    "threads": 5,
    "frames": 11,
    "stacks": 4,
    "sites": 15,
    "sampling": 4,
    "retired": 7,
    "unmapped": 11,
    "snapshots": 12,
    "limits": 5,
    "limit_usage": 3,
    "process_memory": 7,
    "memory_lines": 4,
    "blocks": 3,
    "events": 4,
}
"""Number of columns of each table of ``schema.TABLES``, in the order they are written."""


@dataclass(slots=True)
class Known:
    """Contents of the recording so far.

    Attributes:
        frames: Id in the recording.
        sites: Id in the recording and last written totals.
        targets: By slot.
        threads: By uid.
        retired: Last totals of dropped sites, by kind, slot and owner.
        unmapped: Last totals of callers that unmapped, by slot and number.
        limits: Id in the recording.
        retiring_slots: Targets whose retired totals grew with the last snapshot.
        elapsed_s: Time of the last snapshot.
    """

    frames: dict[Frame, int] = field(default_factory=dict)
    sites: dict[SiteKey, tuple[int, SiteTotals]] = field(default_factory=dict)
    targets: dict[int, TargetInfo] = field(default_factory=dict)
    threads: dict[int, ThreadInfo] = field(default_factory=dict)
    retired: dict[tuple[Kind, int, Owner], SiteTotals] = field(default_factory=dict)
    unmapped: dict[tuple[int, int], UnmapTotals] = field(default_factory=dict)
    limits: dict[Limit, int] = field(default_factory=dict)
    retiring_slots: set[int] = field(default_factory=set)
    n_snapshots: int = 0
    n_events: int = 0
    elapsed_s: float = 0.0

    def learn(self, batch: Batch) -> None:
        """Add a batch that is now in the recording."""
        self.frames.update(batch.new_frames)
        self.sites.update(batch.sites)
        self.targets.update(batch.targets)
        self.threads.update(batch.threads)
        self.retired.update(batch.retired)
        self.unmapped.update(batch.unmapped)
        self.limits.update(batch.limits)
        if batch.rows["snapshots"]:
            self.retiring_slots = batch.retiring_slots
        self.n_snapshots += len(batch.rows["snapshots"])
        self.n_events += len(batch.rows["events"])
        self.elapsed_s = batch.elapsed_s

    def everything_again(self, batch: Batch) -> Batch:
        """All known rows followed by the batch, for a recording that starts again in memory."""
        whole = Batch(self.elapsed_s)
        whole.rows["frames"] = [_frame_row(number, frame) for frame, number in self.frames.items()]
        whole.rows |= _rows_of_targets(self.targets.values())
        whole.rows["threads"] = [_thread_row(thread) for thread in self.threads.values()]
        whole.rows["retired"] = [_retired_row(totals) for totals in self.retired.values()]
        whole.rows["unmapped"] = [_unmapped_row(totals) for totals in self.unmapped.values()]
        whole.rows["sites"] = [_site_row(number, site, self.elapsed_s) for number, site in self.sites.values()]
        whole.rows["limits"] = [_limit_row(number, limit) for limit, number in self.limits.items()]
        whole.rows["sampling"] = [(number, *site.uncertainty) for number, site in self.sites.values()]
        for table, rows in whole.rows.items():
            batch.rows[table] = rows + batch.rows[table]
        if batch.rows["snapshots"] and self.sites:
            batch.replace_samples([_sample(number, site) for number, site in (self.sites | batch.sites).values()])
        return batch


@dataclass(slots=True)
class Batch:
    """Rows by table, and the changes of ``Known`` once they are committed."""

    elapsed_s: float
    rows: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in _TABLES})
    trace: dict[str, str] = field(default_factory=dict)
    new_frames: dict[Frame, int] = field(default_factory=dict)
    sites: dict[SiteKey, tuple[int, SiteTotals]] = field(default_factory=dict)
    targets: dict[int, TargetInfo] = field(default_factory=dict)
    threads: dict[int, ThreadInfo] = field(default_factory=dict)
    retired: dict[tuple[Kind, int, Owner], SiteTotals] = field(default_factory=dict)
    unmapped: dict[tuple[int, int], UnmapTotals] = field(default_factory=dict)
    limits: dict[Limit, int] = field(default_factory=dict)
    retiring_slots: set[int] = field(default_factory=set)

    def statements(self) -> Iterator[tuple[str, Iterable[Row]]]:
        """Statements for ``executemany``, each with its rows.

        Rows of sites are made as they are written: all of them together would take 45 MiB at 65,536 sites.
        """
        for table, n_columns in _TABLES.items():
            rows: Iterable[Row] = self.rows[table]
            if table == "trace":
                rows = [(name, _text(value)) for name, value in self.trace.items()]
            elif table == "sites" and self.sites:
                rows = chain(rows, (_site_row(number, site, self.elapsed_s) for number, site in self.sites.values()))
            if rows:
                marks = ", ".join("?" * n_columns)
                yield f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows

    def replace_samples(self, samples: Sequence[Sample]) -> None:
        """Gives the batch's snapshot these samples instead of its own."""
        self.rows["snapshots"] = [(*row[:-2], len(samples), pack_samples(samples)) for row in self.rows["snapshots"]]


def encode(
    known: Known,
    snapshot: Snapshot | None,
    stacks: Iterable[Stack],
    events: Sequence[tuple[float, str, str]],
    targets: Sequence[TargetInfo] = (),
) -> Batch:
    """The rows that bring the recording from ``known`` to the snapshot.

    Args:
        known: Contents of the recording; not changed.
        snapshot: State to add; None to add only the rest.
        stacks: Stacks to add or to replace.
        events: Notes to add: seconds since the start, word, sentence.
        targets: Targets to add or to replace, besides those of the snapshot.
    """
    batch = Batch(snapshot.elapsed_s if snapshot else known.elapsed_s)
    _encode_stacks(known, batch, stacks)
    batch.rows["events"] = [
        (known.n_events + i, at_s, _text(what), _text(text)) for i, (at_s, what, text) in enumerate(events)
    ]
    for target in (*(snapshot.targets if snapshot else ()), *targets):
        if known.targets.get(target.slot) != target:
            batch.targets[target.slot] = target
    batch.rows |= _rows_of_targets(batch.targets.values())
    if snapshot is not None:
        batch.threads = {thread.uid: thread for thread in snapshot.threads if known.threads.get(thread.uid) != thread}
        batch.rows["threads"] = [_thread_row(thread) for thread in batch.threads.values()]
        _encode_snapshot(known, batch, snapshot)
    return batch


def _encode_stacks(known: Known, batch: Batch, stacks: Iterable[Stack]) -> None:
    for stack in stacks:
        ids = []
        for frame in stack.frames:
            number = known.frames.get(frame)
            if number is None:
                number = batch.new_frames.setdefault(frame, len(known.frames) + len(batch.new_frames))
            ids.append(number)
        batch.rows["stacks"].append((to_signed(stack.key), pack_ids(ids), stack.truncated, _text(stack.end)))
    batch.rows["frames"] = [_frame_row(number, frame) for frame, number in batch.new_frames.items()]


def _encode_snapshot(known: Known, batch: Batch, snapshot: Snapshot) -> None:
    _encode_retired(known, batch, snapshot)
    _encode_unmapped(known, batch, snapshot)
    _encode_memory(known, batch, snapshot)
    batch.trace.update(windows=pack_windows(snapshot.windows))
    batch.rows["blocks"] = [(number, *chunk) for number, chunk in enumerate(snapshot.blocks)]
    samples = []
    next_id = len(known.sites)
    for site in map(_storable, (*snapshot.sites, *_dropped_sites(known, batch, snapshot))):
        before = known.sites.get(site.key)
        if before is None:
            number, next_id = next_id, next_id + 1
        elif _changed(before[1], site):
            number = before[0]
        else:
            continue
        batch.sites[site.key] = (number, site)
        if site.uncertainty != (before[1].uncertainty if before else CERTAIN):
            batch.rows["sampling"].append((number, *site.uncertainty))
        sample = _sample(number, site)
        if before is None or sample != _sample(*before):
            samples.append(sample)
    batch.rows["snapshots"] = [
        (
            known.n_snapshots,
            snapshot.elapsed_s,
            snapshot.rss_bytes,
            snapshot.slice_s,
            snapshot.probe_hits,
            snapshot.probe_cost_ns,
            snapshot.target_cpu_s,
            snapshot.tracer_cpu_s,
            snapshot.tracer_max_rss_bytes,
            json.dumps(dict(snapshot.counters)),
            len(samples),
            pack_samples(samples),
        )
    ]


def _encode_retired(known: Known, batch: Batch, snapshot: Snapshot) -> None:
    for totals in map(_storable, snapshot.retired):
        where = (totals.key.kind, totals.key.slot, totals.owner)
        if known.retired.get(where) != totals:
            batch.retired[where] = totals
    batch.rows["retired"] = [_retired_row(totals) for totals in batch.retired.values()]


def _encode_unmapped(known: Known, batch: Batch, snapshot: Snapshot) -> None:
    for totals in snapshot.unmapped:
        where = (totals.slot, totals.number)
        if known.unmapped.get(where) != totals:
            batch.unmapped[where] = totals
    batch.rows["unmapped"] = [_unmapped_row(totals) for totals in batch.unmapped.values()]


def _encode_memory(known: Known, batch: Batch, snapshot: Snapshot) -> None:
    number = known.n_snapshots
    for limit, usage_bytes in snapshot.limits:
        limit_id = known.limits.get(limit)
        if limit_id is None:
            limit_id = batch.limits.setdefault(limit, len(known.limits) + len(batch.limits))
        if usage_bytes is not None:
            batch.rows["limit_usage"].append((number, limit_id, usage_bytes))
    batch.rows["limits"] = [_limit_row(limit_id, limit) for limit, limit_id in batch.limits.items()]
    batch.rows["process_memory"] = [(number, *process) for process in snapshot.processes]
    batch.rows["memory_lines"] = [
        (reading.elapsed_s, reading.slot, line.value, n_bytes)
        for reading in snapshot.readings
        for line, n_bytes in reading.lines.items()
    ]


def _limit_row(number: int, limit: Limit) -> Row:
    return (number, limit.slot, limit.kind, _text(limit.name), limit.limit_bytes)


def _dropped_sites(known: Known, batch: Batch, snapshot: Snapshot) -> Iterator[SiteTotals]:
    """Sites whose totals moved to ``retired`` with this snapshot, each with empty totals."""
    for where, totals in batch.retired.items():
        before = known.retired.get(where)
        if totals.allocated_count > (before.allocated_count if before else 0):
            batch.retiring_slots.add(totals.key.slot)
    slots = batch.retiring_slots | known.retiring_slots
    if not slots and not snapshot.dropped:
        return
    dropped = {key for key in snapshot.dropped if key in known.sites}
    threads = known.threads | batch.threads
    ended = {uid for uid, thread in threads.items() if not thread.alive} if slots else set()
    if ended:
        dropped |= {key for key in known.sites if key.slot in slots and key.thread_uid in ended}
    for key in dropped.difference(site.key for site in snapshot.sites):
        site = known.sites[key][1]
        if site.allocated_count:
            yield SiteTotals(key, owner=site.owner, functions=site.functions)


def _text(text: str) -> str:
    """A name that SQLite can store: lone surrogates, which stand for invalid UTF-8, become escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _changed(before: SiteTotals, site: SiteTotals) -> bool:
    """Whether a site differs from the stored one. Its age does not count, because the time of birth is stored."""
    return (
        before.allocated_count != site.allocated_count
        or before.freed_count != site.freed_count
        or before.allocated_bytes != site.allocated_bytes
        or before.freed_bytes != site.freed_bytes
        or before.resident_bytes != site.resident_bytes
        or before.reserved_bytes != site.reserved_bytes
        or before.slices != site.slices
        or before.owner != site.owner
        or before.functions != site.functions
        or before.uncertainty != site.uncertainty
    )


def _storable(site: SiteTotals) -> SiteTotals:
    """Totals that fit 64 bits, with the same outstanding memory.

    A target that maps and unmaps 64 TiB without touching it exceeds 64 bits within a second.
    """
    excess = site.allocated_bytes - _MAX_TOTAL
    if excess <= 0 and site.reserved_bytes <= _MAX_TOTAL:
        return site
    excess = max(0, excess)
    return replace(
        site,
        allocated_bytes=site.allocated_bytes - excess,
        freed_bytes=max(0, site.freed_bytes - excess),
        reserved_bytes=min(site.reserved_bytes, _MAX_TOTAL),
    )


def _sample(number: int, site: SiteTotals) -> Sample:
    resident = -1 if site.resident_bytes is None else site.resident_bytes
    return Sample(
        number, site.allocated_bytes, site.allocated_count, site.outstanding_bytes, site.outstanding_count, resident
    )


@lru_cache(maxsize=256)
def _functions(functions: tuple[str, ...]) -> str:
    return json.dumps(list(functions))


def _site_row(number: int, site: SiteTotals, elapsed_s: float) -> Row:
    return (
        number,
        site.key.kind,
        site.key.slot,
        site.key.thread_uid,
        to_signed(site.key.stack_key),
        site.owner,
        _functions(site.functions),
        site.allocated_bytes,
        site.allocated_count,
        site.freed_bytes,
        site.freed_count,
        site.resident_bytes,
        site.reserved_bytes,
        None if site.oldest_s is None else elapsed_s - site.oldest_s,
        pack_slices(site.slices),
    )


def _frame_row(number: int, frame: Frame) -> Row:
    return (
        number,
        _text(frame.function),
        frame.module and _text(frame.module),
        to_signed(frame.ip),
        to_signed(frame.offset),
        frame.kind,
        frame.file and _text(frame.file),
        frame.line,
        frame.build_id,
        to_signed(frame.module_offset),
        frame.found,
    )


def _target_row(target: TargetInfo) -> Row:
    return (
        target.slot,
        target.pid,
        _text(target.comm),
        _text(target.exe),
        target.runtime.version if target.runtime is not None and target.runtime.name == JVM else None,
        json.dumps(list(target.allocators)),
        target.end,
        target.end_signal,
    )


def _rows_of_targets(targets: Collection[TargetInfo]) -> dict[str, list[Row]]:
    """Rows by table."""
    return {
        "targets": [_target_row(target) for target in targets],
        "runtimes": [(t.slot, t.runtime.name, _text(t.runtime.version)) for t in targets if t.runtime is not None],
        "unwatched": [(t.slot, i, *map(_text, each)) for t in targets for i, each in enumerate(t.unwatched)],
        "children": [
            (t.slot, c.pid, _text(c.comm), c.rss_bytes, c.growth_bytes, c.is_alive, c.holds_as_much)
            for t in targets
            for c in t.children
        ],
    }


def _thread_row(thread: ThreadInfo) -> Row:
    return (thread.uid, thread.slot, thread.tid, _text(thread.name), thread.alive)


def _retired_row(totals: SiteTotals) -> Row:
    return (
        totals.key.kind,
        totals.key.slot,
        totals.owner,
        totals.allocated_bytes,
        totals.allocated_count,
        totals.freed_bytes,
        totals.freed_count,
    )


def _unmapped_row(totals: UnmapTotals) -> Row:
    return (
        totals.slot,
        totals.number,
        totals.thread_uid,
        to_signed(totals.stack_key),
        totals.owner,
        json.dumps(list(totals.functions)),
        totals.n_calls,
        min(totals.freed_bytes, _MAX_TOTAL),
        min(totals.other_threads_bytes, _MAX_TOTAL),
        min(totals.reserved_bytes, _MAX_TOTAL),
        min(totals.older_bytes, _MAX_TOTAL),
    )
