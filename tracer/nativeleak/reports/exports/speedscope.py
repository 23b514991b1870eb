"""A profile for https://www.speedscope.app: JSON with one profile for each metric.

Source: https://github.com/jlfwong/speedscope/wiki/Importing-from-custom-sources

Root frames are threads. Growth is in bytes a minute, and sites that shrink are left out of it: speedscope has no
negative weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

from nativeleak import __version__
from nativeleak.analysis.select import Metric
from nativeleak.model import Frame
from nativeleak.reports.folded import metric_value
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import folded_name, printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import SiteReport, SiteTable

_PROFILES: Final = (
    (Metric.OUTSTANDING, "in use", "bytes"),
    (Metric.COUNT, "blocks in use", "none"),
    (Metric.GROWTH, "growth a minute", "bytes"),
    (Metric.ALLOCATED, "allocated", "bytes"),
    (Metric.RESIDENT, "resident part of mappings", "bytes"),
)


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """One JSON object on one line, ASCII only. Metrics that no site has are left out; the asked one is shown first."""
    del options
    frames = _Frames()
    rows = report.rows.sites.rows
    stacks = [frames.stack(site) for site in rows]
    profiles: list[dict[str, Any]] = []
    active = 0
    for metric, name, unit in _PROFILES:
        weights = [max(0, metric_value(site, metric)) for site in rows]
        if metric is report.selection.metric:
            active = len(profiles)
        elif not any(weights):
            continue
        chosen = [i for i, weight in enumerate(weights) if weight]
        profiles.append(
            {
                "type": "sampled",
                "name": name,
                "unit": unit,
                "startValue": 0,
                "endValue": sum(weights),
                "samples": [stacks[i] for i in chosen],
                "weights": [weights[i] for i in chosen],
            }
        )
    file = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "shared": {"frames": frames.table},
        "profiles": profiles,
        "name": printable(report.trace.name),
        "activeProfileIndex": active,
        "exporter": f"nativeleak {__version__}",
    }
    stream.write(encode_text(json.dumps(file, allow_nan=False)))
    stream.write(b"\n")


class _Frames:
    """The table of frames: one row for each name at each place."""

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        self._rows: dict[tuple[str, str | None, int | None], int] = {}
        self._of_frames: dict[int, int] = {}

    def stack(self, site: SiteReport) -> list[int]:
        """Indices of the thread and of the frames, root first."""
        return [self._index(f"[{printable(site.thread)}]", None, None), *self._indices(site.stack.frames)]

    def _indices(self, frames: Sequence[Frame]) -> list[int]:
        found = []
        for frame in reversed(frames):
            index = self._of_frames.get(id(frame))
            if index is None:
                place = frame.file or frame.module
                line = frame.line if frame.file else None
                index = self._index(folded_name(frame), place and printable(place), line)
                self._of_frames[id(frame)] = index
            found.append(index)
        return found

    def _index(self, name: str, file: str | None, line: int | None) -> int:
        index = self._rows.setdefault((name, file, line), len(self.table))
        if index == len(self.table):
            row: dict[str, Any] = {"name": name}
            if file:
                row["file"] = file
            if line:
                row["line"] = line
            self.table.append(row)
        return index
