"""A watch as JSON lines: ``nativeleak.watch/1``, one object a line, each with ``kind``.

``start`` first and ``end`` last; ``status`` holds the kernel's counts, ``reading`` all lines besides, ``alarm`` and
``note`` what happened. Sizes in bytes, times in ISO 8601 UTC or in seconds since the beginning.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from nativeleak import __version__
from nativeleak.analysis.growth import Growth
from nativeleak.model import LimitUse
from nativeleak.process.procfs import read_boot_id
from nativeleak.watch.alarms import Alarm
from nativeleak.watch.courses import Row
from nativeleak.watch.moments import Status, as_time
from nativeleak.watch.sizes import SizeRow

if TYPE_CHECKING:
    from nativeleak.watch.watcher import Watch

SCHEMA: Final = "nativeleak.watch/1"

Entry = dict[str, Any]


def start(watch: Watch) -> Entry:
    """The first object."""
    options, target, system = watch.options, watch.target, os.uname()
    alarms = options.alarms
    return {
        "schema": SCHEMA,
        "kind": "start",
        "time": as_time(watch.status.when_s),
        "tool": {"version": __version__},
        "host": {"kernel": system.release, "machine": system.machine, "boot_id": read_boot_id()},
        "target": {"pid": target.pid, "comm": target.comm, "exe": target.exe},
        "every_s": options.every_s,
        "duration_s": options.duration_s,
        "alarms": {
            "rss_above_bytes": alarms.rss_bytes,
            "growth_above_bytes_per_s": alarms.growth_bytes_per_s,
            "cgroup_above_pct": alarms.group_pct,
        },
    }


def status(now: Status) -> Entry:
    """The kernel's counts."""
    return {
        "schema": SCHEMA,
        "kind": "status",
        "time": as_time(now.when_s),
        "elapsed_s": round(now.elapsed_s, 3),
        "rss_bytes": now.rss_bytes,
        "anon_bytes": now.anon_bytes,
        "file_bytes": now.file_bytes,
        "shmem_bytes": now.shmem_bytes,
        "swap_bytes": now.swap_bytes,
        "page_tables_bytes": now.page_table_bytes,
        "threads": now.n_threads,
        "limits": [_limit(use) for use in now.limits],
    }


def reading(watch: Watch) -> Entry:
    """The counts and a full reading."""
    read = watch.reading
    if read is None:
        return status(watch.status)
    held = watch.held_row
    return status(watch.status) | {
        "kind": "reading",
        "reading": watch.n_readings,
        "read_s": round(read.elapsed_s, 3),
        "cpu_s": round(read.cost_s, 4),
        "walked_pct": None if read.walked_share is None else round(100 * read.walked_share, 2),
        "growth": _growth(held.growth) if held is not None else None,
        "lines": [
            {
                "id": row.name, "resident_bytes": read.resident.get(row.name, 0), "used_bytes": read.used.get(row.name),
                "first_bytes": round(row.first_bytes), "growth": _growth(row.growth),
            }
            for row in watch.line_rows
        ],
        "size_classes": [_size(row) for row in watch.size_rows],
        "census": {"skipped_walks": watch.sizes.n_skipped, "blocks_of_other_sizes": watch.sizes.n_beyond},
        "nmt": [_said(row) for row in watch.said_rows],
        "notes": watch.notes,
    }  # fmt: skip


def alarm(now: Status, given: Alarm) -> Entry:
    """A condition that holds."""
    return {
        "schema": SCHEMA,
        "kind": "alarm",
        "time": as_time(now.when_s),
        "elapsed_s": round(now.elapsed_s, 3),
        "alarm": given.name,
        "text": given.text,
        "value": given.value,
        "bound": given.bound,
    }


def note(elapsed_s: float, text: str) -> Entry:
    """A sentence."""
    return {
        "schema": SCHEMA,
        "kind": "note",
        "time": as_time(time.time()),
        "elapsed_s": round(elapsed_s, 3),
        "text": text,
    }


def end(watch: Watch) -> Entry:
    """The last object."""
    return {
        "schema": SCHEMA,
        "kind": "end",
        "time": as_time(time.time()),
        "elapsed_s": round(watch.elapsed_s, 3),
        "reason": watch.reason,
        "readings": watch.n_readings,
        **watch.ending.as_json(),
    }


def _limit(use: LimitUse) -> Entry:
    limit = use.limit
    return {
        "kind": limit.kind.value,
        "name": limit.name,
        "limit_bytes": limit.limit_bytes,
        "usage_bytes": use.usage_bytes,
    }


def _growth(growth: Growth) -> Entry:
    return {
        "slope_bytes_per_s": growth.slope_bytes_per_s,
        "ci95": [growth.low_bytes_per_s, growth.high_bytes_per_s],
        "verdict": growth.verdict.value,
    }


def _size(row: SizeRow) -> Entry:
    return {
        "kind": row.kind,
        "bytes": list(row.sizes),
        "requests": list(row.requests) if row.requests else None,
        "known_as": row.known,
        "first_count": row.n_first,
        "count": row.n_last,
        "gained_bytes": row.bytes_gained,
        "blocks_per_s": row.blocks_per_s,
        "growth": _growth(row.growth),
    }


def _said(row: Row) -> Entry:
    return {
        "category": row.name,
        "committed_bytes": round(row.last_bytes),
        "first_bytes": round(row.first_bytes),
        "growth": _growth(row.growth),
    }
