"""The ledger as JSON: ``nativeleak.triage/1``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nativeleak.heaps.census import HeapWalk
from nativeleak.holders.as_json import holders_object
from nativeleak.holders.result import HoldersReport
from nativeleak.process.procfs import read_boot_id
from nativeleak.triage.group import groups_json
from nativeleak.triage.lines import Ledger
from nativeleak.triage.verdicts import Verdict, java_limits

SCHEMA: Final = "nativeleak.triage/1"


def render_json(
    ledger: Ledger, verdicts: Sequence[Verdict], tool_version: str, more: Mapping[str, Any] | None = None
) -> str:
    """One object, with a newline at its end. Sizes in bytes.

    Args:
        ledger: The lines.
        verdicts: The most important first.
        tool_version: Ours.
        more: Further keys, such as ``jvm_says``.
    """
    return json.dumps(_object(ledger, verdicts, tool_version) | dict(more or {}), indent=2) + "\n"


def holders_keys(held: HoldersReport) -> dict[str, Any]:
    """The keys ``holders`` and ``holders_seen``, for ``more``."""
    seen = holders_object(held)
    return {"holders": seen.pop("holders"), "holders_seen": seen}


def _object(ledger: Ledger, verdicts: Sequence[Verdict], tool_version: str) -> dict[str, Any]:
    system = os.uname()
    target, java = ledger.target, ledger.java
    return {
        "schema": SCHEMA,
        "tool": {"version": tool_version},
        "host": {"kernel": system.release, "machine": system.machine, "boot_id": read_boot_id()},
        "target": {
            "pid": target.pid,
            "comm": target.comm,
            "exe": target.exe,
            "n_threads": ledger.n_threads,
            "jvm": {"collector": java.collector, "flags": java.flags} if java else None,
        },
        "rss_bytes": ledger.rss,
        "swap_bytes": ledger.swap,
        "virtual_bytes": ledger.virtual,
        "page_tables_bytes": ledger.page_tables,
        "huge_pages_bytes": ledger.huge,
        "huge_pages_zero_bytes": ledger.huge_zero,
        "status_rss_bytes": list(ledger.status_rss),
        "lines": [
            {
                "id": line.id,
                "label": line.label,
                "resident_bytes": line.resident,
                "swap_bytes": line.swap,
                "virtual_bytes": line.virtual,
                "used_bytes": line.used,
                "detail": [{"name": name, "resident_bytes": n_bytes} for name, n_bytes in line.detail],
            }
            for line in ledger.lines
        ],
        "unexplained_bytes": ledger.resident("unexplained"),
        "java": _java(ledger),
        "limits": [
            {
                "kind": "cgroup", "name": str(group.path), "limit_bytes": group.limit_bytes,
                "usage_bytes": group.usage_bytes, "reached_in_s": None, "reached_in_ci95_s": None,
            }
            for group in ledger.groups
        ]
        + [
            {
                "kind": "rlimit", "name": use.limit.name, "limit_bytes": use.limit.limit_bytes,
                "usage_bytes": use.usage_bytes, "reached_in_s": None, "reached_in_ci95_s": None,
            }
            for use in ledger.rlimits
        ]
        + [
            {
                "kind": "machine", "name": "memory", "limit_bytes": ledger.machine_bytes, "usage_bytes": None,
                "reached_in_s": None, "reached_in_ci95_s": None,
            }
        ],
        "groups": groups_json(ledger),
        "allocators": [_allocator(walk, ledger) for walk in ledger.walks],
        "unwalked_allocators": ledger.unwalked,
        "verdicts": [
            {
                "id": verdict.id, "certainty": verdict.certainty, "text": verdict.text,
                "evidence": list(verdict.evidence), "next": list(verdict.next),
            }
            for verdict in verdicts
        ],
        "notes": ledger.notes,
    }  # fmt: skip


def _java(ledger: Ledger) -> dict[str, Any] | None:
    java = ledger.java
    if java is None:
        return None
    return {
        "heap_used_bytes": java.heap.used if java.heap else None,
        "heap_parts": java.heap.parts if java.heap else {},
        "heap_resident": dict(ledger.heap_resident),
        "heap_free_resident_bytes": ledger.heap_free,
        "metaspace_used_bytes": java.metaspace_used,
        "metaspace_committed_bytes": java.metaspace_committed,
        "class_space_committed_bytes": java.class_space_committed,
        "code_used_bytes": java.code_used,
        "native_counts": dataclasses.asdict(ledger.native_counts),
        "may_take": [{"name": name, "bytes": n_bytes} for name, n_bytes in java_limits(ledger)],
    }


def _allocator(walk: HeapWalk, ledger: Ledger) -> dict[str, Any]:
    total = walk.total
    return {
        "kind": walk.kind,
        "object": walk.object,
        "in_use_bytes": walk.in_use_bytes,
        "retained_bytes": total.retained_bytes,
        "retained_resident_bytes": total.retained_resident_bytes,
        "trimmable_bytes": total.trimmable_bytes,
        "walked_pct": round(100 * walk.walked_share, 2),
        "unread_bytes": total.unread_bytes,
        "free": {"count": total.free.n_blocks, "bytes": total.free.n_bytes},
        "cached": {"count": total.cached.n_blocks, "bytes": total.cached.n_bytes},
        "fast": {"count": total.fast.n_blocks, "bytes": total.fast.n_bytes},
        "top_bytes": total.top_bytes,
        "mapped": {"count": walk.n_mapped, "bytes": walk.mapped_bytes},
        "arenas": [
            {
                "name": arena.name,
                "threads": arena.n_threads,
                "thread_names": ledger.arena_threads.get(arena.name),
                "in_use_bytes": arena.census.in_use.n_bytes,
                "retained_bytes": arena.census.retained_bytes,
                "retained_resident_bytes": arena.census.retained_resident_bytes,
            }
            for arena in walk.arenas
        ],
        "size_classes": [
            {"bytes": size, "count": count, "total_bytes": size * count, "known_as": ledger.known_as(size)}
            for size, count in sorted(walk.sizes.items(), key=lambda item: -item[0] * item[1])
        ],
    }
