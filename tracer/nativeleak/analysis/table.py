"""The sites of a recording as a table, one row a site in the order of ``Recording.sites``.

Columns: kind, owner, slot, thread_uid, tid, thread, stack_key, functions (tuple of names), allocated_bytes,
allocated_count, freed_bytes, freed_count, outstanding_bytes, outstanding_count, resident_bytes (NaN where not
measured), reserved_bytes, n_sampled, variance_bytes, variance_count, oldest_s (NaN where nothing is outstanding),
n_threads, n_stacks.
"""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from nativeleak.model import ThreadInfo
from nativeleak.recording import Recording

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


def site_table(recording: Recording) -> pd.DataFrame:
    """The latest totals of all sites."""
    sites = recording.sites
    threads = [thread_of(recording, site.key.thread_uid) for site in sites]
    columns: dict[str, Any] = {
        "kind": pd.Series([site.key.kind.value for site in sites], dtype=object),
        "owner": pd.Series([site.owner.value for site in sites], dtype=object),
        "slot": pd.Series([site.key.slot for site in sites], dtype="int64"),
        "thread_uid": pd.Series([site.key.thread_uid for site in sites], dtype="int64"),
        "tid": pd.Series([thread.tid for thread in threads], dtype="int64"),
        "thread": pd.Series([thread.name for thread in threads], dtype=object),
        "stack_key": pd.Series([site.key.stack_key for site in sites], dtype="uint64"),
        "functions": pd.Series([site.functions for site in sites], dtype=object),
    }
    for name in TOTALS:
        columns[name] = pd.Series([getattr(site, name) for site in sites], dtype="int64")
    columns["n_sampled"] = pd.Series([site.uncertainty.n_sampled for site in sites], dtype="int64")
    for name in ("variance_bytes", "variance_count"):
        columns[name] = pd.Series([getattr(site.uncertainty, name) for site in sites], dtype="float64")
    columns["resident_bytes"] = pd.Series([site.resident_bytes for site in sites], dtype="float64")
    columns["oldest_s"] = pd.Series([site.oldest_s for site in sites], dtype="float64")
    columns["n_threads"] = pd.Series([1] * len(sites), dtype="int64")
    columns["n_stacks"] = pd.Series([1] * len(sites), dtype="int64")
    return pd.DataFrame(columns)


def unmap_table(recording: Recording) -> pd.DataFrame:
    """Columns tid, thread and stack_key of ``Recording.unmapped``, in its order; thread * means all threads."""
    rows = recording.unmapped or ()
    known = [recording.threads.get(row.thread_uid) if row.thread_uid else None for row in rows]
    return pd.DataFrame(
        {
            "tid": pd.Series([thread.tid if thread else 0 for thread in known], dtype="int64"),
            "thread": pd.Series([thread.name if thread else "*" for thread in known], dtype=object),
            "stack_key": pd.Series([row.stack_key for row in rows], dtype="uint64"),
        }
    )


def thread_of(recording: Recording, uid: int) -> ThreadInfo:
    """The thread with this uid, or one that stands for all threads together."""
    return recording.threads.get(uid) or ThreadInfo(0, 0, 0, UNKNOWN_THREAD, alive=False)
