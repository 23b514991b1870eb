"""The sites of a recording as a table, one row a site in the order of ``Recording.sites``.

Columns: kind, owner, slot, thread_uid, tid, thread, stack_key, functions (tuple of names), allocated_bytes,
allocated_count, freed_bytes, freed_count, outstanding_bytes, outstanding_count, resident_bytes (NaN where not
measured), reserved_bytes, n_sampled, variance_bytes, variance_count, oldest_s (NaN where nothing is outstanding),
n_threads, n_stacks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from nativeleak.analysis.paths import Paths
from nativeleak.analysis.rows import Table, objects
from nativeleak.model import Owner, ThreadInfo
from nativeleak.recording import Recording
from nativeleak.runtimes.frames import loading_of_stack, owner_of_stack, purpose_of_stack

_MAX_LEAF_FRAMES: Final = 48
"""Frames in which a runtime's library is looked for."""
UNKNOWN_THREAD: Final = "[threads beyond the limit]"

TOTALS: Final = (
    "allocated_bytes",
    "allocated_count",
    "freed_bytes",
    "freed_count",
    "outstanding_bytes",
    "outstanding_count",
    "reserved_bytes",
)
UNCERTAINTIES: Final = ("n_sampled", "variance_bytes", "variance_count")
"""Columns that also add up, because blocks are sampled independently."""

ADDED: Final = (*TOTALS, *UNCERTAINTIES)
"""Columns that add up when rows are merged."""


def site_table(recording: Recording) -> Table:
    """The latest totals of all sites."""
    sites = recording.site_columns
    n_sites = len(sites)
    uids = set(sites.thread_uid)
    threads = {uid: thread_of(recording, uid) for uid in uids}
    columns: dict[str, Any] = {
        "kind": objects(sites.kind),
        "owner": objects(sites.owner),
        "slot": np.array(sites.slot, dtype=np.int64),
        "thread_uid": np.array(sites.thread_uid, dtype=np.int64),
        "tid": np.array([threads[uid].tid for uid in sites.thread_uid], dtype=np.int64),
        "thread": objects([threads[uid].name for uid in sites.thread_uid]),
        "stack_key": np.array(sites.stack_key, dtype=np.uint64),
        "functions": objects(sites.functions),
    }
    for name in ("allocated_bytes", "allocated_count", "freed_bytes", "freed_count"):
        columns[name] = np.array(getattr(sites, name), dtype=np.int64)
    columns["outstanding_bytes"] = columns["allocated_bytes"] - columns["freed_bytes"]
    columns["outstanding_count"] = columns["allocated_count"] - columns["freed_count"]
    columns["reserved_bytes"] = np.array(sites.reserved_bytes, dtype=np.int64)
    sampled = list(sites.uncertainty)
    for name, dtype in (("n_sampled", np.int64), ("variance_bytes", np.float64), ("variance_count", np.float64)):
        columns[name] = np.zeros(n_sites, dtype=dtype)
        columns[name][sampled] = [getattr(sites.uncertainty[position], name) for position in sampled]
    columns["resident_bytes"] = np.array(sites.resident_bytes, dtype=np.float64)
    columns["oldest_s"] = np.array(sites.oldest_s, dtype=np.float64)
    columns["n_threads"] = np.ones(n_sites, dtype=np.int64)
    columns["n_stacks"] = np.ones(n_sites, dtype=np.int64)
    return Table(columns, np.arange(n_sites, dtype=np.int64))


def add_paths(table: Table, paths: Paths) -> Table:
    """The table with the columns path_id and purpose, and owners as the names of the frames tell them today.

    The purpose is what a runtime uses its memory for; it is empty for the program's memory. What a runtime takes for
    each piece of code at its first use is the runtime's, whoever's call came first.
    """
    keys: list[int] = table["stack_key"].tolist()
    paths.load(set(keys))
    ids = [paths.path_id(key) for key in keys]
    owners: list[str] = table["owner"].tolist()
    purposes = ["other" if owner == Owner.RUNTIME.value else "" for owner in owners]
    told: dict[int, tuple[str, str]] = {}
    by_beginning: dict[tuple[int, ...], str] = {}
    for row, path_id in enumerate(ids if paths.has_runtimes else ()):
        if not paths.passes_runtime(path_id, _MAX_LEAF_FRAMES):
            continue
        if path_id not in told:
            told[path_id] = _owner_and_purpose(paths, path_id, by_beginning)
        owners[row], purposes[row] = told[path_id]
    return table.assign(
        path_id=np.array(ids, dtype=np.int64),
        owner=objects(owners),
        purpose=objects(purposes),
    )


def _owner_and_purpose(paths: Paths, path_id: int, by_beginning: dict[tuple[int, ...], str]) -> tuple[str, str]:
    """Of a path that passes a runtime.

    Args:
        paths: Where it is from.
        path_id: Its number.
        by_beginning: Owners that are known: paths are many, and their beginnings, which tell the owner, are few.
    """
    beginning = paths.runtime_beginning(path_id)
    owner = by_beginning.get(beginning)
    if owner is None:
        owner = owner_of_stack([paths.steps[step].frame for step in beginning]).value
        by_beginning[beginning] = owner
    frames = [paths.steps[step].frame for step in paths.path(path_id)]
    if owner == Owner.RUNTIME.value:
        return owner, purpose_of_stack(frames)
    loading = loading_of_stack(frames) if owner == Owner.PROGRAM.value else None
    return (Owner.RUNTIME.value, loading) if loading is not None else (owner, "")


def unmap_table(recording: Recording) -> Table:
    """Columns tid, thread and stack_key of ``Recording.unmapped``, in its order; thread * means all threads."""
    rows = recording.unmapped or ()
    known = [recording.threads.get(row.thread_uid) if row.thread_uid else None for row in rows]
    return Table(
        {
            "tid": np.array([thread.tid if thread else 0 for thread in known], dtype=np.int64),
            "thread": objects([thread.name if thread else "*" for thread in known]),
            "stack_key": np.array([row.stack_key for row in rows], dtype=np.uint64),
        },
        np.arange(len(rows), dtype=np.int64),
    )


def thread_of(recording: Recording, uid: int) -> ThreadInfo:
    """The thread with this uid, or one that stands for all threads together."""
    return recording.threads.get(uid) or ThreadInfo(0, 0, 0, UNKNOWN_THREAD, alive=False)
