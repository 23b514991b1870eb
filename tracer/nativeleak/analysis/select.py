"""Selects, merges and orders the sites of a report: a chain of pure functions over the table of sites."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nativeleak.analysis.curves import Ints
from nativeleak.analysis.rows import Table
from nativeleak.analysis.table import ADDED
from nativeleak.errors import UsageError
from nativeleak.model import Stack

if TYPE_CHECKING:
    import pandas as pd


class By(StrEnum):
    """Key of one row of a report; the values are those of ``--by``. The last two are for several recordings."""

    PATH = "path"
    SITE = "site"
    THREAD = "thread"
    SITE_AND_THREAD = "site,thread"
    POOL = "pool"
    HOST = "host"
    PROCESS = "process"


class Metric(StrEnum):
    """Order of the sites; the values are those of ``--metric``."""

    OUTSTANDING = "outstanding"
    ALLOCATED = "allocated"
    COUNT = "count"
    GROWTH = "growth"
    RESIDENT = "resident"


METRIC_COLUMNS: Final = {
    Metric.OUTSTANDING: "outstanding_bytes",
    Metric.ALLOCATED: "allocated_bytes",
    Metric.COUNT: "outstanding_count",
    Metric.GROWTH: "slope_bytes_per_s",
    Metric.RESIDENT: "resident_bytes",
}

_MERGED_BY: Final = {
    By.PATH: ["kind", "owner", "slot", "path_id"],
    By.SITE: ["kind", "owner", "slot", "stack_key"],
    By.THREAD: ["kind", "owner", "slot", "thread_uid"],
    By.POOL: ["kind", "owner", "slot", "path_id", "thread"],
}
# Not those of C2 CompilerThread0's first word, or of http2-worker-1: they say what the threads are for.
_NUMBERS: Final = re.compile(r"(?<![A-Za-z0-9])[0-9]+|[0-9]+$")


@dataclass(frozen=True, slots=True)
class Selection:
    """Sites that the user asked for.

    Attributes:
        by: Key of one row; None: as the format has it.
        thread: A TID, a glob on the thread's name, or ``/regex/``; None for all.
        function: Regular expression that a frame's function must match somewhere; None for all.
        min_bytes: Lowest metric of a row; outstanding bytes if the metric is not in bytes.
        top: Maximum number of rows; None for all.
    """

    metric: Metric = Metric.OUTSTANDING
    by: By | None = None
    thread: str | None = None
    function: str | None = None
    min_bytes: int = 0
    top: int | None = None

    @property
    def key(self) -> By:
        """Key of one row: thread and stack where nothing else was asked for."""
        return self.by or By.SITE_AND_THREAD

    @property
    def is_filtered(self) -> bool:
        """Whether rows may be missing."""
        return self.thread is not None or self.function is not None or self.min_bytes > 0 or self.top is not None


def pool_of(thread: str) -> str:
    """Name of a thread's pool: the thread's name with * for its numbers, ``reactor-http-epoll-*``."""
    return _NUMBERS.sub("*", thread)


def keep_threads(table: Table, thread: str | None) -> Table:
    """The rows of the threads that ``Selection.thread`` matches.

    Raises:
        UsageError: The regular expression is not valid.
    """
    if thread is None:
        return table
    if thread.isdigit():
        return table.where(table["tid"] == int(thread))
    names: list[str] = table["thread"].tolist()
    kept = set(filter(thread_test(thread), set(names)))
    return table.where(np.array([name in kept for name in names], dtype=np.bool_))


def thread_test(thread: str) -> Callable[[str], bool]:
    """Whether the name of a thread matches ``Selection.thread``, which is no TID.

    Raises:
        UsageError: The regular expression is not valid.
    """
    if len(thread) > 1 and thread[0] == thread[-1] == "/":
        pattern = _compile("--thread", thread[1:-1])
        return lambda name: pattern.search(name) is not None
    return lambda name: fnmatchcase(name, thread)


def function_pattern(function: str | None) -> re.Pattern[str] | None:
    """``Selection.function``, compiled; None for all.

    Raises:
        UsageError: The regular expression is not valid.
    """
    return None if function is None else _compile("--function", function)


def keep_functions(table: Table, function: str | None, stack_of: Callable[[int], Stack | None]) -> Table:
    """The rows with a frame whose function matches ``Selection.function``.

    Raises:
        UsageError: The regular expression is not valid.
    """
    if function is None:
        return table
    pattern = _compile("--function", function)
    keys: list[int] = np.unique(table["stack_key"]).tolist()
    chosen = [key for key in keys if _has_function(stack_of(key), pattern)]
    return table.where(np.isin(table["stack_key"], np.array(chosen, dtype=np.uint64)))


def merge(sites: Table, by: By, n_sites: int) -> tuple[Table, Ints]:
    """The merged table, and for each of all ``n_sites`` sites the number of its row, -1 for no row."""
    labels: Ints = np.full(n_sites, -1, dtype=np.int64)
    if by is By.SITE_AND_THREAD or not len(sites):
        labels[sites.index] = np.arange(len(sites))
        return Table(sites.columns, np.arange(len(sites), dtype=np.int64)), labels
    table = sites.to_pandas()
    if by is By.POOL:
        table = table.assign(thread=table["thread"].map(pool_of))
    table = table.sort_values("outstanding_bytes", ascending=False, kind="stable")
    groups = table.groupby(_MERGED_BY[by], sort=False)
    labels[table.index.to_numpy()] = groups.ngroup().to_numpy()
    merged = groups[list(ADDED)].sum()
    merged["resident_bytes"] = groups["resident_bytes"].sum(min_count=1)
    merged["oldest_s"] = groups["oldest_s"].max()
    merged["functions"] = _union_of_each(groups["functions"])
    merged["n_threads"] = groups["thread_uid"].nunique()
    merged["n_stacks"] = groups["stack_key"].nunique()
    for column in {"thread_uid", "tid", "thread", "stack_key"} - set(_MERGED_BY[by]):
        merged[column] = groups[column].first()
    merged = merged.reset_index()
    if by in (By.SITE, By.PATH):
        merged = merged.assign(thread_uid=0, tid=0, thread="*")
    elif by is By.POOL:
        merged = merged.assign(thread_uid=0, tid=0)
    else:
        merged = merged.assign(stack_key=np.zeros(len(merged), dtype="uint64"))
    return Table.from_pandas(merged), labels


def rank(table: Table, selection: Selection) -> Table:
    """The rows to show, largest metric first, unknown ones last. The index still gives each row's number."""
    column = METRIC_COLUMNS[selection.metric]
    in_bytes = selection.metric in (Metric.OUTSTANDING, Metric.ALLOCATED, Metric.RESIDENT)
    if selection.min_bytes:
        values = table[column if in_bytes else "outstanding_bytes"]
        table = table.where(np.where(np.isnan(values), 0, values) >= selection.min_bytes)
    order = np.lexsort([-table[name] for name in ("allocated_bytes", "outstanding_bytes", column)])
    return table.take(order[: selection.top])


def _union_of_each(groups: Any) -> pd.Series[Any]:
    """The functions of each group; most groups have one tuple of them, and no need of a call in Python."""
    functions: pd.Series[Any] = groups.first()
    several = groups.nunique() > 1
    if several.any():
        functions[several] = groups.agg(_union)[several]
    return functions


def _union(names: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted(set(chain.from_iterable(names))))


def _has_function(stack: Stack | None, pattern: re.Pattern[str]) -> bool:
    return stack is not None and any(pattern.search(frame.function) for frame in stack.frames)


def _compile(option: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{option} {pattern!r} is no regular expression: {error}", "Put a backslash before ( ) [ ] * + ? . ^ $ |"
        ) from error
