"""The report of many recordings as JSON, schema ``nativeleak.merged/1``.

Paths are arrays of indices into ``frames``, leaf first. Growth is in bytes a second; null where it is not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from nativeleak import __version__
from nativeleak.analysis.growth import Growth
from nativeleak.analysis.select import By
from nativeleak.model import Frame, Kind
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.held import fate_json, looks_json
from nativeleak.reports.merged.sites import MANY, MergedTable
from nativeleak.reports.merged.summary import Dimension, dimensions, growth_of, notes
from nativeleak.reports.output import encode_text

SCHEMA: Final = "nativeleak.merged/1"

Json = dict[str, Any]


def write(table: MergedTable, stream: BinaryIO, options: WriteOptions) -> None:
    """One JSON object on one line, ASCII only."""
    del options
    frames = _Frames()
    merged, sums, selection = table.merged, table.sums, table.selection
    metric = selection.metric
    rows = list(_rows(table, frames))
    report: Json = {
        "schema": SCHEMA,
        "tool": {"version": __version__},
        "by": selection.key.value,
        "metric": metric.value,
        "filtered": selection.is_filtered,
        "recordings": list(_recordings(table)),
        "failed": [{"file": each.name, "why": each.what} for each in merged.failures],
        "notes": list(notes(merged)),
        "totals": {
            kind.value: {
                "outstanding_bytes": sums.by_kind[kind].outstanding_bytes,
                "outstanding_count": sums.by_kind[kind].outstanding_count,
                "allocated_bytes": sums.by_kind[kind].allocated_bytes,
                "allocated_count": sums.by_kind[kind].allocated_count,
                "freed_bytes": sums.by_kind[kind].freed_bytes,
                "freed_count": sums.by_kind[kind].freed_count,
                "resident_bytes": sums.by_kind[kind].resident_bytes,
                "reserved_bytes": sums.by_kind[kind].reserved_bytes,
            }
            for kind in Kind
        },
        "growth": _growth(sums.growth if any(source.grows for source in merged.sources) else None),
        "hosts": [
            {"host": merged.hosts[each.number], "processes": each.n_processes, **_dimension(each)}
            for each in dimensions(merged, "host", metric)
        ],
        "processes": [
            {
                "host": merged.hosts[merged.processes[each.number].host],
                "pid": merged.processes[each.number].pid,
                "comm": merged.processes[each.number].comm,
                "recordings": list(merged.processes[each.number].sources),
                **_dimension(each),
            }
            for each in dimensions(merged, "process", metric)
        ],
        "n_rows": table.sites.n_all,
        "rows": rows,
        "frames": frames.table,
    }
    stream.write(encode_text(json.dumps(report, allow_nan=False)))
    stream.write(b"\n")


class _Frames:
    """The table of frames: each is written once."""

    def __init__(self) -> None:
        self.table: list[Json] = []
        self._numbers: dict[int, int] = {}

    def number(self, frame: Frame) -> int:
        number = self._numbers.setdefault(id(frame), len(self.table))
        if number == len(self.table):
            self.table.append(
                {"function": frame.function, "module": frame.module, "file": frame.file, "kind": frame.kind.value}
            )
        return number


def _recordings(table: MergedTable) -> Iterator[Json]:
    for source in table.merged.sources:
        yield {
            "file": source.name,
            "host": source.info.host_name,
            "boot_id": source.info.boot_id,
            "version": source.info.version,
            "backend": source.info.backend,
            "started": datetime.fromtimestamp(source.info.started, UTC).isoformat(),
            "duration_s": source.duration_s,
            "watched_pct": source.watched_pct,
            "sample_bytes": source.sample_bytes,
            "growth_known": source.grows,
            "rss_start_bytes": source.rss_bytes[0],
            "rss_end_bytes": source.rss_bytes[1],
            "processes": [{"pid": target.pid, "comm": target.comm, "exe": target.exe} for target in source.targets],
            "completeness": dict(source.counters),
            **({"looks": looks_json(source.looks, source.targets)} if source.looks else {}),
        }


def _rows(table: MergedTable, frames: _Frames) -> Iterator[Json]:
    rows, key = table.shown, table.selection.key
    for at, site in enumerate(table.sites.rows):
        named: Json = {"n_hosts": int(rows.n_hosts[at]), "n_processes": int(rows.n_processes[at])}
        if key in (By.HOST, By.PROCESS):
            named["host"] = site.host
        if key is By.PROCESS:
            named |= {"pid": site.pid, "comm": site.process}
        if site.thread != MANY:
            named["threads"] = site.thread
        yield {
            "id": site.id,
            "kind": site.kind.value,
            "owner": site.owner.value,
            **named,
            "outstanding_bytes": site.totals.outstanding_bytes,
            "outstanding_count": site.totals.outstanding_count,
            "allocated_bytes": site.totals.allocated_bytes,
            "allocated_count": site.totals.allocated_count,
            "freed_bytes": site.totals.freed_bytes,
            "freed_count": site.totals.freed_count,
            "resident_bytes": site.resident_bytes,
            "growth": _growth(growth_of(rows, at)),
            **({} if site.fate is None else {"traced": fate_json(site.fate, site.lost_certainty)}),
            "path": [frames.number(frame) for frame in site.stack.frames],
        }


def _dimension(each: Dimension) -> Json:
    return {
        "outstanding_bytes": each.outstanding_bytes,
        "outstanding_count": each.outstanding_count,
        "allocated_bytes": each.allocated_bytes,
        "growth": _growth(each.growth),
    }


def _growth(growth: Growth | None) -> Json | None:
    if growth is None:
        return None
    return {
        "slope_bytes_per_s": growth.slope_bytes_per_s,
        "ci95": [growth.low_bytes_per_s, growth.high_bytes_per_s],
    }
