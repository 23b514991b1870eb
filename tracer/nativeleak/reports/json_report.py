"""The JSON report, schema ``nativeleak.report/1``: scripts and dashboards may rely on its keys.

Source: interfaces.md, "JSON report"; keys that are not on that page may change. With filters the totals are those of
the selected threads and functions, ``filtered`` is true and ``shown`` says how many of the sites are listed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from nativeleak import __version__
from nativeleak.analysis.certainty import Certainty
from nativeleak.analysis.select import By
from nativeleak.model import Child, Frame, Kind, Stack, TargetInfo, Window
from nativeleak.reports.census import census_json
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.held import looks_json
from nativeleak.reports.json_findings import finding_json, growth_json, process_growth_json
from nativeleak.reports.memory import limits_json, resident_json, threads_json
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import (
    Overhead,
    Report,
    SiteReport,
    ThreadReport,
    Totals,
    TraceFacts,
    UnmapReport,
)

SCHEMA: Final = "nativeleak.report/1"

Json = dict[str, Any]


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """The report as one JSON object on one line, ASCII only: indenting takes five times as long as all the rest."""
    stream.write(encode_text(json.dumps(_report(report, Tables() if options.compact else None), allow_nan=False)))
    stream.write(b"\n")


class Tables:
    """The frames and stacks of a compact report: each frame is written once, and each stack."""

    def __init__(self) -> None:
        self.frames: list[Json] = []
        self.stacks: list[list[int]] = []
        self._frame_ids: dict[Frame, int] = {}
        self._stack_ids: dict[tuple[int, ...], int] = {}

    def add(self, frames: Sequence[Frame]) -> int:
        """Index of the stack of these frames in ``stacks``."""
        ids = tuple(self._add_frame(frame) for frame in frames)
        number = self._stack_ids.setdefault(ids, len(self.stacks))
        if number == len(self.stacks):
            self.stacks.append(list(ids))
        return number

    def _add_frame(self, frame: Frame) -> int:
        number = self._frame_ids.setdefault(frame, len(self.frames))
        if number == len(self.frames):
            self.frames.append(_frame(frame))
        return number


def _report(report: Report, tables: Tables | None) -> Json:
    selection = report.selection
    return {
        **_trace(report.trace),
        "totals": {
            kind.value: _totals(totals) | _sampling(report.sums.certainty if kind is Kind.HEAP else None)
            for kind, totals in report.sums.by_kind.items()
        },
        "growth": process_growth_json(report),
        "suspects": [finding_json(report, finding) for finding in report.suspects],
        "findings": [finding_json(report, finding) for finding in report.findings],
        "resident": _resident(report),
        "limits": limits_json(report.memory),
        "thread_growth": threads_json(report.memory),
        "completeness": dict(report.counters) | _sampling_error(report.sums.certainty),
        "overhead": _overhead(report.overhead),
        "by": selection.key.value,
        "metric": selection.metric.value,
        "filtered": selection.is_filtered,
        "shown": {"sites": len(report.rows.sites.rows), "of": report.rows.sites.n_all},
        "recording": {"end_reason": report.trace.end_reason, "error": report.trace.recording_error},
        "notes": [{"elapsed_s": e.elapsed_s, "what": e.what, "text": e.text} for e in report.trace.events],
        "threads": [_thread(thread) for thread in report.threads],
        "sites": [_site(site, selection.key, tables) for site in report.rows.sites.rows],
        "allocator_backing": _totals(report.sums.backing)
        | {"sites": [_site(site, By.SITE_AND_THREAD, tables) for site in report.rows.backing_sites]},
        "unwatched": [each._asdict() for each in report.unwatched],
        "children": [_child(child) for child in report.children],
        **({"census": census_json(report.census)} if report.census else {}),
        **({"looks": looks_json(report.held.looks, report.trace.targets)} if report.held.looks else {}),
        "unmapped": None if report.unmapped is None else [_unmapped(row, tables) for row in report.unmapped],
        **({} if tables is None else {"frames": tables.frames, "stacks": tables.stacks}),
    }


def _trace(trace: TraceFacts) -> Json:
    """What was traced where, by what and how: the first keys of the report."""
    info = trace.info
    targets = [_target(target) for target in trace.targets]
    return {
        "schema": SCHEMA,
        "tool": {"version": info.version, "backend": info.backend, "reported_by": __version__},
        "host": {"kernel": info.kernel, "machine": info.machine, "boot_id": info.boot_id, "name": info.host or None},
        "target": targets[0] if targets else _target(TargetInfo(0, 0, "", "")),
        "targets": targets,
        "window": {
            "started": datetime.fromtimestamp(info.started, UTC).isoformat(timespec="milliseconds"),
            "duration_s": trace.duration_s,
            "snapshots": trace.n_snapshots,
        },
        "mode": {
            "probes": list(info.probes),
            "sample_bytes": trace.sample_bytes,
            "min_size": info.min_size,
            "max_size": info.max_size,
            "sampled": trace.sample_bytes > 0,
            "windows": [_window(window) for window in trace.windows],
            "options": dict(info.options),
        },
    }


def _resident(report: Report) -> Json | None:
    resident = report.resident
    if resident is None:
        return None
    pct = resident.explained_pct
    return {
        "first_bytes": resident.first_bytes,
        "last_bytes": resident.last_bytes,
        "explained_bytes": round(resident.explained_bytes),
        "explained_pct": None if pct is None else round(pct, 1),
        "growth": growth_json(resident.growth),
    } | resident_json(report.memory)


def _overhead(overhead: Overhead) -> Json:
    return {
        "probe_hits": overhead.probe_hits,
        "probe_cost_ns": overhead.probe_cost_ns,
        "estimated_cost_s": round(overhead.cost_s, 6),
        "estimated_core_pct": round(overhead.core_pct, 4),
        "estimated_target_cpu_pct": round(overhead.target_cpu_pct, 4),
        "tracer_cpu_s": overhead.tracer_cpu_s,
        "tracer_max_rss_bytes": overhead.tracer_max_rss_bytes,
        "kernel_memory_bytes": overhead.kernel_bytes,
    }


def _thread(thread: ThreadReport) -> Json:
    return {
        "tid": thread.tid,
        "name": thread.name,
        "alive": thread.alive,
        "outstanding_bytes": thread.outstanding_bytes,
        "outstanding_count": thread.outstanding_count,
    }


def _window(window: Window) -> Json:
    return {
        "from_s": window.from_s,
        "to_s": window.to_s,
        "level": window.level.value,
        "sample_bytes": window.sample_bytes,
        "probe_hits": window.probe_hits,
        "estimated_cost_s": round(window.cost_s, 6),
        "target_cpu_s": round(window.target_cpu_s, 3),
    }


def _sampling(certainty: Certainty | None) -> Json:
    """The samples behind an estimate, and 95 % bounds of outstanding memory; nothing where totals are exact."""
    if certainty is None:
        return {}
    return {
        "sampling": {
            "blocks": certainty.n_sampled,
            "outstanding_bytes_ci95": [round(bound) for bound in certainty.bytes95],
            "outstanding_count_ci95": [round(bound) for bound in certainty.count95],
            "error95_pct": round(certainty.error_pct, 2),
        }
    }


def _sampling_error(certainty: Certainty | None) -> Json:
    """Half the distance between the bounds of outstanding heap memory; 0 where it is exact."""
    low, high = certainty.bytes95 if certainty else (0.0, 0.0)
    least, most = certainty.count95 if certainty else (0.0, 0.0)
    return {"sampling_error_bytes": round((high - low) / 2), "sampling_error_count": round((most - least) / 2)}


def _child(child: Child) -> Json:
    return {
        "pid": child.pid,
        "comm": child.comm,
        "rss_bytes": child.rss_bytes,
        "growth_bytes": child.growth_bytes,
        "alive": child.is_alive,
    }


def _target(target: TargetInfo) -> Json:
    runtime = target.runtime
    return {
        "pid": target.pid,
        "comm": target.comm,
        "exe": target.exe,
        "jvm": {"version": runtime.version} if runtime is not None and runtime.name == "hotspot" else None,
        "runtime": {"name": runtime.name, "version": runtime.version} if runtime is not None else None,
        "end": target.end.value,
        "end_signal": target.end_signal,
        "allocators": list(target.allocators),
    }


def _totals(totals: Totals) -> Json:
    return {
        "outstanding_bytes": totals.outstanding_bytes,
        "outstanding_count": totals.outstanding_count,
        "allocated_bytes": totals.allocated_bytes,
        "allocated_count": totals.allocated_count,
        "freed_bytes": totals.freed_bytes,
        "freed_count": totals.freed_count,
        "resident_bytes": totals.resident_bytes,
        "reserved_bytes": totals.reserved_bytes,
    }


def _site(site: SiteReport, by: By, tables: Tables | None) -> Json:
    merged: Json = {}
    if by in (By.SITE, By.POOL):
        merged["threads"] = site.n_threads
    elif by is By.THREAD:
        merged["stacks"] = site.n_stacks
    return {
        "id": site.id,
        "kind": site.kind.value,
        "owner": site.owner.value,
        "functions": list(site.functions),
        "pid": site.pid,
        "thread": {"tid": site.tid, "name": site.thread},
        **merged,
        **_totals(site.totals),
        "resident_bytes": site.resident_bytes,
        "oldest_s": site.oldest_s,
        "growth": growth_json(site.growth),
        "truncated": site.stack.truncated,
        "stack_end": site.stack.end,
        **_sampling(site.certainty),
        **_stack(site.stack, tables),
    }


def _unmapped(row: UnmapReport, tables: Tables | None) -> Json:
    totals = row.totals
    return {
        "id": row.id,
        "owner": totals.owner.value,
        "functions": list(totals.functions),
        "pid": row.pid,
        "thread": {"tid": row.tid, "name": row.thread},
        "calls": totals.n_calls,
        "freed_bytes": totals.freed_bytes,
        "other_threads_bytes": totals.other_threads_bytes,
        "reserved_bytes": totals.reserved_bytes,
        "older_bytes": totals.older_bytes,
        "truncated": row.stack.truncated,
        "stack_end": row.stack.end,
        **_stack(row.stack, tables),
    }


def _stack(stack: Stack, tables: Tables | None) -> Json:
    if tables is None:
        return {"frames": [_frame(frame) for frame in stack.frames]}
    return {"stack": tables.add(stack.frames)}


def _frame(frame: Frame) -> Json:
    return {
        "function": frame.function or "[no name]",
        "module": frame.module,
        "file": frame.file,
        "line": frame.line,
        "offset": frame.offset,
        "kind": frame.kind.value,
        "ip": hex(frame.ip),
        "module_offset": hex(frame.module_offset),
        "found": frame.found,
    } | ({"inlined": True} if frame.is_inlined else {})
