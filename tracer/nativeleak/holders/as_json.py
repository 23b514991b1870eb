"""The report as JSON: ``nativeleak.holders/1``, and the rows that a triage carries."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Final

from nativeleak.holders.attribution import ClassCensus, Holder
from nativeleak.holders.result import HoldersReport, LostBlocks
from nativeleak.process.procfs import read_boot_id
from nativeleak.reports.held import fate_json
from nativeleak.runtimes.hotspot.heap.result import holders_java_json

SCHEMA: Final = "nativeleak.holders/1"
MAX_ADDRESSES: Final = 1000


def render_json(report: HoldersReport, tool_version: str) -> str:
    """One object, with a newline at its end. Sizes in bytes, addresses as hex strings."""
    system = os.uname()
    head = {
        "schema": SCHEMA,
        "tool": {"version": tool_version},
        "host": {"kernel": system.release, "machine": system.machine, "boot_id": read_boot_id()},
        "target": {"pid": report.target.pid, "comm": report.target.comm, "exe": report.target.exe},
    }
    return json.dumps({**head, **holders_object(report)}, indent=2) + "\n"


def holders_object(report: HoldersReport) -> dict[str, Any]:
    """Everything but the head."""
    return {
        "holders": holder_rows(report),
        "lost": None if report.lost is None else [_lost(each) for each in report.lost],
        "why_not_lost": report.why_not_lost or None,
        "classes": [_class(each) for each in report.classes],
        "allocators": [{"kind": kind, "object": path} for kind, path in report.allocators],
        "completeness": _completeness(report),
        "notes": report.notes,
        "traced": _traced(report),
        "java_holders": None if report.java is None else holders_java_json(report.java),
    }


def _traced(report: HoldersReport) -> dict[str, Any] | None:
    """The join with a recording; None without one."""
    if report.recorded is None:
        return None
    lost = report.grade("lost")
    return {
        "recording": report.recorded.name,
        "ended_s_ago": round(report.recorded.ended_s, 1),
        "blocks": len(report.recorded.addresses),
        "blocks_unlisted": report.recorded.n_unlisted,
        "causes": [
            {
                "name": each.cause.name, "place": each.cause.place or None, "suspect": each.cause.is_suspect,
                **fate_json(each.fate, lost.certainty if lost is not None else ""),
            }
            for each in report.traced
        ],
    }  # fmt: skip


def holder_rows(report: HoldersReport) -> list[dict[str, Any]]:
    """Holders, classes and lost blocks as rows of one form. Rows of different kinds overlap."""
    rows = [_holder(each) for each in report.holders]
    rows += [
        {
            "holder": each.name, "kind": "native-class", "objects": each.n_objects, "blocks": each.n_objects,
            "bytes": each.n_bytes, "retained_bytes": each.retained_bytes, "reachable": each.n_lost < each.n_objects,
            "path": [],
        }
        for each in report.classes
    ]  # fmt: skip
    rows += [
        {
            "holder": f"nothing ({each.grade})", "kind": "unreachable", "objects": each.n_blocks,
            "blocks": each.n_blocks, "bytes": each.n_bytes, "certainty": each.certainty, "reachable": False,
            "path": [],
        }
        for each in report.lost or ()
        if each.n_blocks
    ]  # fmt: skip
    return rows


def _holder(holder: Holder) -> dict[str, Any]:
    return {
        "holder": holder.label.name,
        "kind": holder.label.kind,
        "detail": holder.label.detail or None,
        "objects": holder.n_blocks,
        "blocks": holder.n_blocks,
        "bytes": holder.n_bytes,
        "exclusive_blocks": holder.exclusive_blocks,
        "exclusive_bytes": holder.exclusive_bytes,
        "reachable": True,
        "path": [],
    }


def _class(census: ClassCensus) -> dict[str, Any]:
    return {
        "name": census.name,
        "objects": census.n_objects,
        "bytes": census.n_bytes,
        "retained_bytes": census.retained_bytes,
        "lost_objects": census.n_lost,
    }


def _lost(lost: LostBlocks) -> dict[str, Any]:
    return {
        "grade": lost.grade,
        "certainty": lost.certainty,
        "why": lost.why or None,
        "blocks": lost.n_blocks,
        "bytes": lost.n_bytes,
        "groups": [
            {
                "block_bytes": group.block_bytes, "blocks": group.n_blocks, "bytes": group.n_bytes,
                "class": group.class_name or None, "hint": group.hint or None, "example": f"{group.example:#x}",
            }
            for group in lost.groups
        ],
        "addresses": [f"{start:#x}" for start in lost.starts[:MAX_ADDRESSES]],
    }  # fmt: skip


def _completeness(report: HoldersReport) -> dict[str, Any]:
    seen = report.completeness
    refuted: Sequence[tuple[int, int]] = sorted(seen.refuted.items())
    return {
        "scans": seen.n_scans,
        "wanted_scans": seen.wanted_scans,
        "live_blocks": seen.n_blocks,
        "live_bytes": seen.n_bytes,
        "unreached_bytes": report.unreached_bytes,
        "read_bytes": seen.read_bytes,
        "gone_bytes": seen.missed_bytes,
        "unwalked_bytes": seen.unwalked_bytes,
        "swapped_bytes": seen.swapped_bytes,
        "registers": seen.sees_registers,
        "edges": seen.n_edges,
        "roots": seen.n_roots,
        "refuted_by_write": [{"block_bytes": size, "blocks": count} for size, count in refuted],
        "refuted_by_free": seen.n_freed,
        "refuted_by_last_scan": seen.n_unsettled,
        "helper": seen.helper,
        "duration_s": round(seen.seconds, 3),
        "last_scan_s": round(seen.last_scan_s, 3),
    }
