"""The tables that a report was counted from, for formats that show the course of every site."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from nativeleak.analysis.curves import Ints
from nativeleak.analysis.paths import Paths
from nativeleak.recording import Recording


@dataclass(frozen=True, slots=True)
class Detail:
    """Tables of a report; they can be used while the recording is open.

    Attributes:
        recording: The recording.
        paths: Call paths; those of ``sites`` are loaded.
        sites: The selected sites without those of allocators, as ``analysis.table.site_table`` has them, with the
            column path_id. The index is the position in ``Recording.sites``.
        rows: The rows to show, in order: sites merged by the selection's key, with the columns of ``sites`` and
            growth, slope_bytes_per_s, verdict. The index is the row's number.
        labels: The row's number of each site of the recording; -1 for no row.
    """

    recording: Recording
    paths: Paths
    sites: pd.DataFrame
    rows: pd.DataFrame
    labels: Ints
