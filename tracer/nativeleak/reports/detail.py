"""The tables that a report is counted from, for formats that show the course of every site."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nativeleak.analysis.curves import Ints, Labelled, Span, read_curves
from nativeleak.analysis.growth import measure
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.rows import Table, objects
from nativeleak.analysis.select import Metric, Selection, merge, rank
from nativeleak.recording import Recording

if TYPE_CHECKING:
    import pandas as pd


class Detail:
    """Tables of a report, made when they are asked for, while the recording is open.

    Args:
        recording: The recording.
        paths: Call paths; those of ``sites`` are loaded.
        sites: The selected sites without those of allocators, as ``analysis.table.site_table`` has them, with the
            column path_id. The index is the position in ``Recording.sites``.
        selection: How they are merged, and which rows are shown.
        span: The snapshots that growth is measured over.
    """

    def __init__(self, recording: Recording, paths: Paths, sites: Table, selection: Selection, span: Span) -> None:
        self.recording, self.paths, self._sites = recording, paths, sites
        self._selection, self._span = selection, span

    @cached_property
    def sites(self) -> pd.DataFrame:
        """The selected sites; the index is the position in ``Recording.sites``."""
        return self._sites.to_pandas()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows to show, in order: merged sites with the columns of ``sites``, and growth, slope_bytes_per_s.

        The index is the row's number in ``labels``.

        Raises:
            RecordingError: The recording is damaged.
        """
        return rank(self._every, self._selection).to_pandas()

    @cached_property
    def all_rows(self) -> pd.DataFrame:
        """The same without ``--top`` and ``--min``, in no order.

        Raises:
            RecordingError: The recording is damaged.
        """
        return self._every.to_pandas()

    @cached_property
    def _every(self) -> Table:
        merged, labels = self._merged
        growths = measure(read_curves(self.recording, [Labelled(labels, len(merged))], self._span)[0])
        rows = merged.assign(
            growth=objects(growths),
            slope_bytes_per_s=np.array([growth.slope_bytes_per_s for growth in growths], dtype=np.float64),
        )
        shown = (rows["outstanding_bytes"] > 0) | (rows["outstanding_count"] > 0)
        if self._selection.metric is Metric.ALLOCATED:
            shown |= rows["allocated_count"] > 0
        return rows.where(shown)

    @property
    def labels(self) -> Ints:
        """The row's number of each site of the recording; -1 for no row."""
        return self._merged[1]

    @cached_property
    def _merged(self) -> tuple[Table, Ints]:
        return merge(self._sites, self._selection.key, len(self.recording.site_columns))
