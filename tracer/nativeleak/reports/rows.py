"""The rows of a report: sites, merged as the selection says, each with its growth.

They are made when a format asks for them: the first screen of the text report shows none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nativeleak.analysis.certainty import Certainty, certainty
from nativeleak.analysis.curves import Bools, Ints, Labelled, Span, read_curves
from nativeleak.analysis.growth import Growth, measure
from nativeleak.analysis.rows import Table, objects
from nativeleak.analysis.select import By, Metric, Selection, merge, rank
from nativeleak.analysis.table import UNCERTAINTIES
from nativeleak.model import BlockFate, Kind, Owner, Stack, Uncertainty, sum_of_fates
from nativeleak.recording import Recording
from nativeleak.reports.held import Held
from nativeleak.reports.report import Listing, SiteReport, Totals
from nativeleak.reports.stacks import Stacks

_COLUMNS: Final = (
    "kind", "owner", "functions", "slot", "tid", "thread", "n_threads", "n_stacks", "stack_key", "resident_bytes",
    "oldest_s", "growth", "fate",
)  # fmt: skip
_KINDS: Final = {kind.value: kind for kind in Kind}
_OWNERS: Final = {owner.value: owner for owner in Owner}
_NO_STACK: Final = Stack(0, ())


class Rows:
    """The sites that a report lists, while its recording is open.

    Args:
        recording: Where their courses come from.
        program: The selected sites, without what allocators mapped for themselves.
        backing: Those.
        selection: What is asked for.
        stacks: Where stacks are got from.
        span: The snapshots to look at.
        held: What became of the blocks of its sites.

    Raises:
        RecordingError: Of each attribute: the recording is damaged.
    """

    def __init__(
        self,
        recording: Recording,
        program: Table,
        backing: Table,
        selection: Selection,
        stacks: Stacks,
        span: Span,
        held: Held,
    ) -> None:
        self._recording, self._program, self._backing = recording, program, backing
        self._selection, self._stacks, self._span, self._held = selection, stacks, span, held

    @cached_property
    def sites(self) -> Listing:
        """The selected sites."""
        return self._listing(self._tables[0])

    @cached_property
    def program(self) -> Listing:
        """The selected sites of the program, for readers who want the JVM's apart."""
        rows = self._tables[0]
        return self._listing(rows.where(rows["owner"] != Owner.RUNTIME.value))

    @cached_property
    def jvm_sites(self) -> tuple[SiteReport, ...]:
        """All selected sites that the JVM allocated and mapped for itself."""
        rows = self._tables[0]
        return self._reports(rows.where(rows["owner"] == Owner.RUNTIME.value), self._selection.key)

    @cached_property
    def backing_sites(self) -> tuple[SiteReport, ...]:
        """Sites where allocators took memory from the kernel for themselves; not selected."""
        backing = self._tables[1]
        return self._reports(backing.where(is_shown(backing, Metric.OUTSTANDING)))

    @cached_property
    def _tables(self) -> tuple[Table, Table]:
        """The merged rows and the allocators' own, with their growth."""
        n_sites = len(self._recording.site_columns)
        merged, labels = merge(self._program, self._selection.key, n_sites)
        backing = self._backing
        groupings = [Labelled(labels, len(merged)), Labelled(_numbered(backing, n_sites), len(backing))]
        of_rows, of_backing = read_curves(self._recording, groupings, self._span)
        rows = _with_growth(merged, measure(of_rows)).assign(fate=objects(self._fates(labels, len(merged))))
        backing = backing.assign(fate=objects([None] * len(backing)))
        return rows.where(is_shown(rows, self._selection.metric)), _with_growth(backing, measure(of_backing))

    def _fates(self, labels: Ints, n_rows: int) -> list[BlockFate | None]:
        """What became of the blocks of each row."""
        of_rows: dict[int, list[BlockFate]] = {}
        for position, fate in self._held.fates.items():
            if 0 <= position < len(labels) and labels[position] >= 0:
                of_rows.setdefault(int(labels[position]), []).append(fate)
        return [sum_of_fates(of_rows[row]) if row in of_rows else None for row in range(n_rows)]

    def _listing(self, rows: Table) -> Listing:
        return Listing(self._reports(rank(rows, self._selection), self._selection.key), len(rows))

    def _reports(self, rows: Table, by: By = By.SITE_AND_THREAD) -> tuple[SiteReport, ...]:
        targets = {target.slot: (target.pid, target.comm) for target in self._recording.targets}
        host = self._recording.info.host_name
        stacks = self._stacks
        if by is not By.THREAD:
            stacks.load(rows["stack_key"].tolist())
        values = zip(*(_plain(rows[name]) for name in _COLUMNS), strict=True)
        totals = list(map(_totals, *(_plain(rows[each.name]) for each in fields(Totals))))
        certainties = map(_certainty, totals, *(_plain(rows[name]) for name in UNCERTAINTIES))
        reports = []
        for cells, sums, certainty_ in zip(values, totals, certainties, strict=True):
            kind, owner, functions, slot, tid, thread, n_threads, n_stacks, key, resident, oldest, growth, fate = cells
            pid, process = targets.get(slot, (0, ""))
            reports.append(
                SiteReport(
                    _KINDS[kind],
                    _OWNERS[owner],
                    functions,
                    pid,
                    tid,
                    thread,
                    n_threads,
                    n_stacks,
                    sums,
                    None if math.isnan(resident) else sums.resident_bytes,
                    None if math.isnan(oldest) else oldest,
                    growth,
                    _NO_STACK if by is By.THREAD else stacks.stack(key),
                    stacks,
                    certainty_,
                    host,
                    process,
                    fate,
                    self._held.certainty_of((slot,)) if fate is not None and fate.n_lost else "",
                )
            )
        return tuple(reports)


def is_shown(table: Table, metric: Metric) -> Bools:
    """Whether each row holds something, or allocated something where that is the metric."""
    shown = (table["outstanding_bytes"] > 0) | (table["outstanding_count"] > 0)
    return shown | (table["allocated_count"] > 0) if metric is Metric.ALLOCATED else shown


def _with_growth(table: Table, growths: Sequence[Growth]) -> Table:
    return table.assign(
        growth=objects(growths),
        slope_bytes_per_s=np.array([g.slope_bytes_per_s for g in growths], dtype=np.float64),
        verdict=objects([g.verdict.value for g in growths]),
    )


def _numbered(rows: Table, n_sites: int) -> Ints:
    labels = np.full(n_sites, -1, dtype=np.int64)
    labels[rows.index] = np.arange(len(rows))
    return labels


def _plain(column: npt.NDArray[Any]) -> list[Any]:
    """Values of a column as Python has them."""
    values: list[Any] = column.tolist()
    return values


def _totals(*values: float) -> Totals:
    """From the columns of the same names; resident memory that was not measured counts as none."""
    return Totals(*(0 if math.isnan(value) else int(value) for value in values))


def _certainty(totals: Totals, n_sampled: int, variance_bytes: float, variance_count: float) -> Certainty | None:
    uncertainty = Uncertainty(n_sampled, variance_bytes, variance_count)
    return certainty(totals.outstanding_bytes, totals.outstanding_count, uncertainty)
