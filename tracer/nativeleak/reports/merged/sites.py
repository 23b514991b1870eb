"""The rows of many recordings as the exports of one recording take them: sites, totals, facts of the trace."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, NamedTuple, overload

from nativeleak.analysis.certainty import certainty
from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.select import Selection
from nativeleak.model import BlockFate, Kind, Owner, Stack, Uncertainty
from nativeleak.reports.held import LIKELY, PROVEN
from nativeleak.reports.merged.merge import MERGED, Merged, Rows, group, ranked
from nativeleak.reports.merged.read import FIGURES, KINDS, OWNERS
from nativeleak.reports.report import Listing, SiteReport, Sums, Totals, TraceFacts
from nativeleak.reports.stacks import stack_id

MANY: Final = "*"
"""Name of several hosts, processes or pools together."""
_MAX_HOLDERS: Final = 8


_LAST_YEAR_S: Final = 2.5e11
"""Seconds from 1970 to the last year that Python has dates for: a damaged recording may claim to end later."""


class MergedTable:
    """A ``report.SiteTable`` of many recordings.

    Args:
        merged: What was read.
        selection: The rows to show.
        with_freed: Whether rows are shown of which everything is freed.
    """

    def __init__(self, merged: Merged, selection: Selection, *, with_freed: bool = False) -> None:
        self.merged, self.selection = merged, selection
        self._with_freed = with_freed

    @cached_property
    def shown(self) -> Rows:
        """The rows to show, in order."""
        return ranked(self.grouped, self.selection, with_freed=self._with_freed)

    @cached_property
    def grouped(self) -> Rows:
        """The same without ``--top`` and ``--min``, in no order."""
        return group(self.merged.rows, self.selection.key)

    @property
    def rows(self) -> MergedTable:
        """This object, which is a ``SiteRows`` too."""
        return self

    @cached_property
    def sites(self) -> Listing:
        """The selected sites."""
        return Listing(
            _Sites(self.merged, self.shown),
            len(ranked(self.grouped, replace(self.selection, top=None), with_freed=self._with_freed)),
        )

    @property
    def program(self) -> Listing:
        """The same: memory of runtimes stands among the rows."""
        return self.sites

    @property
    def jvm_sites(self) -> tuple[SiteReport, ...]:
        """None: they stand among the rows."""
        return ()

    @property
    def backing_sites(self) -> tuple[SiteReport, ...]:
        """None: they are not read."""
        return ()

    @cached_property
    def sums(self) -> Sums:
        """Totals; growth of the whole has no verdict."""
        rows = self.merged.rows
        by_kind = {kind: self._totals(kind) for kind in Kind}
        jvm = rows.take((rows.keys[:, 3] == OWNERS.index(Owner.RUNTIME)).nonzero()[0])
        slope = float(rows.growth[:, 0].sum())
        margin = math.sqrt(float(rows.growth[:, 1].sum()))
        answer = _Answer(Growth(slope, slope - margin, slope + margin, Verdict.UNKNOWN))
        watched = min((source.watched_pct for source in self.merged.sources), default=0.0)
        return Sums(by_kind, _totals_of(jvm), Totals(), answer, watched)

    @cached_property
    def trace(self) -> TraceFacts:
        """From the start of the first recording to the end of the last one."""
        sources = self.merged.sources
        start_s = min(source.info.started for source in sources)
        end_s = min(max(source.info.started + source.duration_s for source in sources), _LAST_YEAR_S)
        targets = tuple(target for source in sources for target in source.targets)
        info = replace(
            sources[0].info, started=start_s, sample_bytes=max(source.sample_bytes for source in sources), host=""
        )
        return TraceFacts(f"{len(sources)} recordings", info, targets, end_s - start_s, 0, None, None, (), ())

    @cached_property
    def counters(self) -> Mapping[str, int]:
        """What was lost in all recordings together."""
        total: Counter[str] = Counter()
        for source in self.merged.sources:
            total.update(source.counters)
        return total

    def _totals(self, kind: Kind) -> Totals:
        rows = self.merged.rows
        totals = _totals_of(rows.take((rows.keys[:, 2] == KINDS.index(kind)).nonzero()[0]))
        if self.selection.thread is not None or self.selection.function is not None:
            return totals
        n_bytes, n_blocks = self.merged.retired[kind]
        return replace(
            totals,
            allocated_bytes=totals.allocated_bytes + n_bytes,
            allocated_count=totals.allocated_count + n_blocks,
            freed_bytes=totals.freed_bytes + n_bytes,
            freed_count=totals.freed_count + n_blocks,
        )


class _Answer(NamedTuple):
    growth: Growth


class _Ids:
    """Text ids of merged stacks, whose keys are all 0."""

    id_of = staticmethod(stack_id)


class _Sites(Sequence[SiteReport]):
    """Sites that are made when they are looked at: a million of them would take a gigabyte."""

    def __init__(self, merged: Merged, rows: Rows) -> None:
        self._merged, self._rows = merged, rows
        self._stacks: dict[int, Stack] = {}
        self._ids = _Ids()
        self._held_by: dict[tuple[int, ...], Counter[str]] = {}
        if rows.fates is not None and len(rows):
            # All rows are merged by the same columns.
            is_merged = (rows.keys[0] == MERGED).tolist()
            for key, holders in merged.held_by.items():
                known = tuple(MERGED if of_many else number for of_many, number in zip(is_merged, key, strict=True))
                self._held_by.setdefault(known, Counter()).update(holders)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> SiteReport: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[SiteReport]: ...
    def __getitem__(self, at: int | slice) -> SiteReport | Sequence[SiteReport]:
        """One site, or some."""
        if isinstance(at, slice):
            return [self._site(i) for i in range(*at.indices(len(self)))]
        return self._site(range(len(self))[at])

    def __iter__(self) -> Iterator[SiteReport]:
        return map(self._site, range(len(self)))

    def _site(self, at: int) -> SiteReport:
        rows, merged = self._rows, self._merged
        host, process, kind, owner, path, pool = rows.keys[at].tolist()
        stack = self._stacks.get(path)
        if stack is None:
            stack = self._stacks[path] = Stack(0, merged.paths.frames(path))
        totals = _totals_row(rows.figures[at].tolist())
        slope, margin = math.nan, math.nan
        if rows.grows[at]:
            slope, margin = float(rows.growth[at, 0]), math.sqrt(float(rows.growth[at, 1]))
        n_sampled, by_bytes, by_count = (0.0, 0.0, 0.0) if rows.sampled is None else rows.sampled[at].tolist()
        return SiteReport(
            kind=KINDS[kind],
            owner=OWNERS[owner],
            functions=(),
            pid=0 if process == MERGED else merged.processes[process].pid,
            tid=0,
            thread=MANY if pool == MERGED else merged.pools[pool],
            n_threads=0,
            n_stacks=0,
            totals=totals,
            resident_bytes=totals.resident_bytes if rows.measured[at] else None,
            oldest_s=None,
            growth=Growth(slope, slope - margin, slope + margin, Verdict.UNKNOWN),
            stack=stack,
            stacks=self._ids,
            certainty=certainty(
                totals.outstanding_bytes,
                totals.outstanding_count,
                Uncertainty(int(n_sampled), by_bytes, by_count),
            ),
            host=MANY if host == MERGED else merged.hosts[host],
            process=MANY if process == MERGED else merged.processes[process].comm,
            **self._fate(at),
        )

    def _fate(self, at: int) -> dict[str, Any]:
        """What is known of the blocks of a row."""
        fates = self._rows.fates
        if fates is None or not fates[at, 0]:
            return {}
        n_recorded, n_in_use, n_lost, lost_bytes, n_unproven = fates[at].tolist()
        held_by = self._held_by.get(tuple(self._rows.keys[at].tolist()), Counter()).most_common(_MAX_HOLDERS)
        fate = BlockFate(n_recorded, n_in_use, n_lost, lost_bytes, tuple(held_by))
        return {"fate": fate, "lost_certainty": (LIKELY if n_unproven else PROVEN) if fate.n_lost else ""}


def _totals_of(rows: Rows) -> Totals:
    return _totals_row(rows.figures.sum(axis=0).tolist())


def _totals_row(figures: Sequence[int]) -> Totals:
    named = dict(zip(FIGURES, figures, strict=True))
    return Totals(
        **named,
        freed_bytes=named["allocated_bytes"] - named["outstanding_bytes"],
        freed_count=named["allocated_count"] - named["outstanding_count"],
    )
