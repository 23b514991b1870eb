"""Compares two recordings, or two moments of one: outstanding memory by call path, thread pool and purpose.

Scope: names of functions identify call paths, so that other addresses, other versions of a library and
other thread numbers part nothing. Memory that allocators took from the kernel for themselves is left out, as in all
totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from nativeleak.analysis.curves import watched_span
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.select import keep_functions, keep_threads, pool_of
from nativeleak.analysis.table import add_paths, site_table
from nativeleak.model import BlockFate, Kind, Look, Owner, TargetInfo, sum_of_fates
from nativeleak.recording import Recording
from nativeleak.reports.held import Held
from nativeleak.reports.html.profile import group_of
from nativeleak.units import format_duration

_Key = TypeVar("_Key", bound=Hashable)

LOST_PATH: Final = ("[stack lost]",)
_Z95: Final = 1.96
_LEAST_PCT: Final = 1.0
_ALIKE: Final = 1.1
"""Two traces whose lengths differ by less than this factor are as long as each other."""
_PROGRAM: Final = {
    Kind.HEAP.value: "the program's blocks",
    Kind.MAP.value: "the program's mappings",
    Kind.BRK.value: "the program break",
}
_LOSSES: Final = ("lost_allocations", "lost_bytes", "lost_stacks", "lost_events")


class DiffMetric(StrEnum):
    """Figure that is compared; the values are those of ``--metric``."""

    OUTSTANDING = "outstanding"
    ALLOCATED = "allocated"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Amount:
    """Memory of one row in one recording; bytes and counts.

    Attributes:
        variance: Estimated variance of the outstanding bytes, 0.0 where they are exact.
        fate: What became of its blocks, by a look after the trace; None where nothing is known of any.
    """

    outstanding_bytes: int = 0
    outstanding_count: int = 0
    allocated_bytes: int = 0
    variance: float = 0.0
    fate: BlockFate | None = None

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.outstanding_bytes + other.outstanding_bytes,
            self.outstanding_count + other.outstanding_count,
            self.allocated_bytes + other.allocated_bytes,
            self.variance + other.variance,
            _together(self.fate, other.fate),
        )

    def of(self, metric: DiffMetric) -> int:
        """The figure of a metric."""
        match metric:
            case DiffMetric.OUTSTANDING:
                return self.outstanding_bytes
            case DiffMetric.ALLOCATED:
                return self.allocated_bytes
            case DiffMetric.COUNT:
                return self.outstanding_count


@dataclass(frozen=True, slots=True)
class Path:
    """A call path as both recordings know it.

    Attributes:
        names: Functions, leaf first.
        head: Index of the function that heads it; it tells no paths apart.
        groups: Colour of each function in a flame graph; they tell no paths apart.
    """

    kind: str
    names: tuple[str, ...]
    head: int = field(compare=False)
    groups: tuple[str, ...] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """One row: the same memory before and after."""

    before: Amount
    after: Amount

    def change(self, metric: DiffMetric) -> int:
        """After without before."""
        return self.after.of(metric) - self.before.of(metric)

    @property
    def has_other_fate(self) -> bool:
        """Whether another share of its blocks is unreachable after, or most of the others have another holder.

        Of a row that is new, whether any is unreachable.
        """
        before, after = self.before.fate, self.after.fate
        if before is None or after is None:
            return after is not None and after.n_lost > 0
        return abs(after.lost_pct - before.lost_pct) >= _LEAST_PCT or holder_of(after) != holder_of(before)

    @property
    def error_bytes(self) -> int:
        """Half of the 95 % interval of the change of outstanding bytes; 0 where both are exact."""
        return round(_Z95 * math.sqrt(max(0.0, self.before.variance + self.after.variance)))


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two recordings.

    Attributes:
        moment_s: The moment that is compared, seconds since the trace began.
        watched_pct: Share of the trace in which calls of the heap were seen.
        losses: Counters of what was lost, without zeros.
        dropped_bytes: Allocated bytes of sites that were dropped because all is freed; they have no stack and are in
            no row. Of a moment before the end they are not known, and 0.
        looks: Who holds the blocks, looked for after the trace: by target. None of a moment before the end.
    """

    name: str
    pids: tuple[int, ...]
    comm: str
    moment_s: float
    backend: str
    probes: tuple[str, ...]
    min_size: int
    sample_bytes: int
    watched_pct: float
    losses: dict[str, int]
    dropped_bytes: int = 0
    looks: tuple[Look, ...] = ()
    targets: tuple[TargetInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """All that a comparison says.

    Attributes:
        stacks: Rows by thread pool and call path, which all other rows are sums of.
        notes: What makes the two hard to compare, as sentences.
    """

    before: Side
    after: Side
    stacks: dict[tuple[str, Path], Pair]
    purposes: dict[str, Pair]
    notes: tuple[str, ...]

    @property
    def total(self) -> Pair:
        """All memory."""
        return next(iter(self._merged(lambda _: 0).values()), Pair(Amount(), Amount()))

    def paths(self) -> dict[Path, Pair]:
        """Rows by call path."""
        return self._merged(lambda key: key[1])

    def fates(self) -> list[tuple[Path, Pair]]:
        """Call paths whose blocks have another fate after than before, most lost bytes gained or gone first.

        None unless both traces were looked at.
        """
        if not self.before.looks or not self.after.looks:
            return []
        found = [(path, pair) for path, pair in self.paths().items() if pair.has_other_fate]
        return sorted(found, key=lambda row: (-_lost_change(row[1]), str(row[0])))

    def pools(self) -> dict[str, Pair]:
        """Rows by thread pool."""
        return self._merged(lambda key: key[0])

    def _merged(self, key_of: Callable[[tuple[str, Path]], _Key]) -> dict[_Key, Pair]:
        merged: dict[_Key, Pair] = {}
        for key, pair in self.stacks.items():
            known = merged.get(key_of(key), Pair(Amount(), Amount()))
            merged[key_of(key)] = Pair(known.before + pair.before, known.after + pair.after)
        return merged


def _together(first: BlockFate | None, second: BlockFate | None) -> BlockFate | None:
    known = [each for each in (first, second) if each is not None]
    return sum_of_fates(known) if known else None


def holder_of(fate: BlockFate) -> str:
    """The nearest holder of most of the blocks that are not lost; empty where there is none."""
    return fate.held_by[0][0] if fate.held_by else ""


def _lost_change(pair: Pair) -> int:
    before, after = (each.fate.lost_bytes if each.fate is not None else 0 for each in (pair.before, pair.after))
    return abs(after - before)


def ranked(rows: dict[_Key, Pair], metric: DiffMetric) -> list[tuple[_Key, Pair]]:
    """Rows that hold anything or changed: largest rise first, largest fall last."""
    shown = [(key, pair) for key, pair in rows.items() if pair.before.of(metric) or pair.after.of(metric)]
    return sorted(shown, key=lambda row: (-row[1].change(metric), -row[1].after.of(metric), str(row[0])))


def compare(before: Recording, after: Recording, *, thread: str | None = None, function: str | None = None) -> Diff:
    """Count the difference.

    Args:
        thread: Only these threads, as ``Selection.thread``.
        function: Only stacks with such a function, as ``Selection.function``.

    Raises:
        RecordingError: A recording is damaged.
        UsageError: A filter makes no sense.
    """
    sides = _side(before), _side(after)
    old, new = _amounts(before, thread, function), _amounts(after, thread, function)
    notes = list(_notes(before, after, *sides))
    for name, side, amounts in (("BEFORE", sides[0], old), ("AFTER", sides[1], new)):
        held = sum((amount for (_, path), amount in amounts.stacks.items() if path.kind == Kind.HEAP.value), Amount())
        if side.sample_bytes and held.outstanding_bytes and not held.variance:
            notes.append(f"{name}: the uncertainty of its estimates is not recorded at this moment, and is not in ±.")
    return Diff(
        *sides,
        _paired(old.stacks, new.stacks),
        _paired(old.purposes, new.purposes),
        tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Amounts:
    stacks: dict[tuple[str, Path], Amount]
    purposes: dict[str, Amount]


def _amounts(recording: Recording, thread: str | None, function: str | None) -> _Amounts:
    table = keep_functions(keep_threads(site_table(recording), thread), function, recording.stack)
    paths = Paths(recording)
    table = add_paths(table.where(table["owner"] != Owner.ALLOCATOR.value), paths)
    found = _Amounts({}, {})
    known: dict[tuple[str, int], Path] = {}
    columns = ("kind", "path_id", "thread", "owner", "purpose", "outstanding_bytes", "outstanding_count")
    values = [table[name].tolist() for name in (*columns, "allocated_bytes", "variance_bytes")]
    fates = map(Held.read(recording).fates.get, table.index.tolist())
    for cells, fate in zip(zip(*values, strict=True), fates, strict=True):
        kind, path_id, name, owner, purpose, n_bytes, n_blocks, allocated, variance = cells
        amount = Amount(int(n_bytes), int(n_blocks), int(allocated), float(variance), fate)
        path = known.get((kind, path_id))
        if path is None:
            path = known[kind, path_id] = _path(paths, kind, path_id)
        key = pool_of(name), path
        found.stacks[key] = found.stacks.get(key, Amount()) + amount
        use = f"{owner}: {purpose or 'other'}" if owner == Owner.RUNTIME.value else _PROGRAM[kind]
        found.purposes[use] = found.purposes.get(use, Amount()) + amount
    return found


def _path(paths: Paths, kind: str, path_id: int) -> Path:
    steps = [paths.steps[step] for step in paths.path(path_id)]
    if not steps:
        return Path(kind, LOST_PATH, 0, ("unnamed",))
    names, groups = tuple(step.name for step in steps), tuple(map(group_of, steps))
    return Path(kind, names, paths.head_index(path_id), groups)


def _paired(before: dict[_Key, Amount], after: dict[_Key, Amount]) -> dict[_Key, Pair]:
    nothing = Amount()
    return {key: Pair(before.get(key, nothing), after.get(key, nothing)) for key in before | after}


def _side(recording: Recording) -> Side:
    info, counters = recording.info, recording.last_snapshot.counters
    return Side(
        recording.name,
        tuple(target.pid for target in recording.targets),
        ", ".join(dict.fromkeys(target.comm for target in recording.targets)),
        recording.elapsed_s,
        info.backend,
        info.probes,
        info.min_size,
        max([info.sample_bytes, *(window.sample_bytes for window in recording.windows)]),
        watched_span(recording).watched_pct if info.coverage.has_blocks else 0.0,
        {name: counters[name] for name in _LOSSES if counters.get(name)},
        sum(site.allocated_bytes for site in recording.retired if site.owner is not Owner.ALLOCATOR),
        recording.looks,
        recording.targets,
    )


def _notes(old: Recording, new: Recording, before: Side, after: Side) -> Iterator[str]:
    same_trace = (old.info.started, old.info.boot_id) == (new.info.started, new.info.boot_id)
    shorter, longer = sorted((before.moment_s, after.moment_s))
    if not same_trace and (longer > shorter * _ALIKE):
        yield (
            f"The traces are {format_duration(before.moment_s)} and {format_duration(after.moment_s)} long: "
            "a longer trace of the same program holds more, leak or not."
        )
    if {target.exe for target in old.targets} != {target.exe for target in new.targets}:
        yield "The traces are of different programs."
    if (before.backend, before.probes, before.min_size) != (after.backend, after.probes, after.min_size):
        yield "The traces did not see the same: engine, probes or --min-size differ."
    if bool(before.looks) != bool(after.looks):
        yield f"Who holds the blocks is known of {'BEFORE' if before.looks else 'AFTER'} alone, and is not compared."
    for name, side in (("BEFORE", before), ("AFTER", after)):
        for why in dict.fromkeys(look.why_not for look in side.looks if look.why_not):
            yield f"{name}: who holds its blocks is not known: {why}."
        if side.watched_pct < 100:
            yield f"{name}: the heap was watched in {side.watched_pct:.0f} % of the trace."
        if side.sample_bytes:
            yield f"{name}: heap memory is estimated, from one block in about {side.sample_bytes:,} bytes."
        if side.losses:
            yield f"{name}: " + ", ".join(f"{key} {count:,}" for key, count in side.losses.items()) + "."
