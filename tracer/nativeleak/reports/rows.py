"""The rows of a report: sites, merged as the selection says, each with its growth.

They are made when a format asks for them: the first screen of the text report shows none.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nativeleak.analysis.certainty import certainty
from nativeleak.analysis.curves import Ints, Labelled, Span, read_curves
from nativeleak.analysis.growth import Growth, measure
from nativeleak.analysis.select import By, Metric, Selection, merge, rank
from nativeleak.analysis.table import TOTALS
from nativeleak.model import Kind, Owner, Stack, Uncertainty
from nativeleak.recording import Recording
from nativeleak.reports.report import Listing, SiteReport, Totals
from nativeleak.reports.stacks import Stacks, stack_id


class Rows:
    """The sites that a report lists, while its recording is open.

    Args:
        recording: Where their courses come from.
        program: The selected sites, without what allocators mapped for themselves.
        backing: Those.
        selection: What is asked for.
        stacks: Where stacks are got from.
        span: The snapshots to look at.

    Raises:
        RecordingError: Of each attribute: the recording is damaged.
    """

    def __init__(
        self,
        recording: Recording,
        program: pd.DataFrame,
        backing: pd.DataFrame,
        selection: Selection,
        stacks: Stacks,
        span: Span,
    ) -> None:
        self._recording, self._program, self._backing = recording, program, backing
        self._selection, self._stacks, self._span = selection, stacks, span

    @cached_property
    def sites(self) -> Listing:
        """The selected sites."""
        return self._listing(self._tables[0])

    @cached_property
    def program(self) -> Listing:
        """The selected sites of the program, for readers who want the JVM's apart."""
        rows = self._tables[0]
        return self._listing(rows[rows["owner"] != Owner.RUNTIME.value])

    @cached_property
    def jvm_sites(self) -> tuple[SiteReport, ...]:
        """All selected sites that the JVM allocated and mapped for itself."""
        rows = self._tables[0]
        return self._reports(rows[rows["owner"] == Owner.RUNTIME.value], self._selection.key)

    @cached_property
    def backing_sites(self) -> tuple[SiteReport, ...]:
        """Sites where allocators took memory from the kernel for themselves; not selected."""
        backing = self._tables[1]
        return self._reports(backing[is_shown(backing, Metric.OUTSTANDING)])

    @cached_property
    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The merged rows and the allocators' own, with their growth."""
        n_sites = len(self._recording.site_columns)
        merged, labels = merge(self._program, self._selection.key, n_sites)
        backing = self._backing
        groupings = [Labelled(labels, len(merged)), Labelled(_numbered(backing, n_sites), len(backing))]
        of_rows, of_backing = read_curves(self._recording, groupings, self._span)
        rows = _with_growth(merged, measure(of_rows))
        return rows[is_shown(rows, self._selection.metric)], _with_growth(backing, measure(of_backing))

    def _listing(self, rows: pd.DataFrame) -> Listing:
        return Listing(self._reports(rank(rows, self._selection), self._selection.key), len(rows))

    def _reports(self, rows: pd.DataFrame, by: By = By.SITE_AND_THREAD) -> tuple[SiteReport, ...]:
        targets = {target.slot: (target.pid, target.comm) for target in self._recording.targets}
        merged_stacks = by is By.THREAD
        host = self._recording.info.host_name
        return tuple(_site_report(self._stacks, row, targets, host, merged_stacks) for row in rows.to_dict("records"))


def is_shown(table: pd.DataFrame, metric: Metric) -> pd.Series[bool]:
    """Whether each row holds something, or allocated something where that is the metric."""
    shown = (table["outstanding_bytes"] > 0) | (table["outstanding_count"] > 0)
    return shown | (table["allocated_count"] > 0) if metric is Metric.ALLOCATED else shown


def _with_growth(table: pd.DataFrame, growths: Sequence[Growth]) -> pd.DataFrame:
    return table.assign(
        growth=pd.Series(list(growths), index=table.index, dtype=object),
        slope_bytes_per_s=pd.Series([g.slope_bytes_per_s for g in growths], index=table.index, dtype="float64"),
        verdict=pd.Series([g.verdict.value for g in growths], index=table.index, dtype=object),
    )


def _numbered(rows: pd.DataFrame, n_sites: int) -> Ints:
    labels = np.full(n_sites, -1, dtype=np.int64)
    labels[rows.index.to_numpy()] = np.arange(len(rows))
    return labels


def _site_report(
    stacks: Stacks, row: Mapping[Hashable, Any], targets: Mapping[int, tuple[int, str]], host: str, merged_stacks: bool
) -> SiteReport:
    pid, comm = targets.get(row["slot"], (0, ""))
    stack = Stack(0, ()) if merged_stacks else stacks.stack(int(row["stack_key"]))
    resident, oldest = row["resident_bytes"], row["oldest_s"]
    return SiteReport(
        id=stack_id(stack) if merged_stacks else stacks.text_id(int(row["stack_key"])),
        kind=Kind(row["kind"]),
        owner=Owner(row["owner"]),
        functions=row["functions"],
        pid=pid,
        tid=int(row["tid"]),
        thread=row["thread"],
        n_threads=int(row["n_threads"]),
        n_stacks=int(row["n_stacks"]),
        totals=Totals(
            **{name: int(row[name]) for name in TOTALS}, resident_bytes=0 if math.isnan(resident) else int(resident)
        ),
        resident_bytes=None if math.isnan(resident) else int(resident),
        oldest_s=None if math.isnan(oldest) else float(oldest),
        growth=row["growth"],
        stack=stack,
        certainty=certainty(
            int(row["outstanding_bytes"]),
            int(row["outstanding_count"]),
            Uncertainty(int(row["n_sampled"]), float(row["variance_bytes"]), float(row["variance_count"])),
        ),
        host=host,
        process=comm,
    )
