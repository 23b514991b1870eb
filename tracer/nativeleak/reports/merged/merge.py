"""Merges what was read of many recordings: rows by process, call path and thread pool, and sums of them.

A process is a PID of one boot of a machine. Growth of processes adds up, and their intervals as independent errors do.
Growth of one process over several recordings is the mean, each weighted by its length; a call path that is absent from
one of them did not grow in it. Memory held adds up over all recordings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.analysis.shared_paths import SharedPaths
from nativeleak.model import Kind
from nativeleak.reports.merged.read import FATES, FIGURES, KINDS, Floats, Ints, Part, Source

_Number = TypeVar("_Number", np.int64, np.float64)

KEYS: Final = ("host", "process", "kind", "owner", "path", "pool")
"""Columns of ``Rows.keys``: numbers of hosts, processes, paths and pools, positions in ``KINDS`` and ``OWNERS``."""
MERGED: Final = -1
"""In a key: rows of several are one."""
UNKNOWN_PROCESS: Final = "[unknown process]"

_APART: Final = {
    By.PATH: ("kind", "owner", "path"),
    By.POOL: ("kind", "owner", "path", "pool"),
    By.HOST: ("host", "kind", "owner", "path"),
    By.PROCESS: ("host", "process", "kind", "owner", "path", "pool"),
}
_COLUMN: Final = {
    Metric.OUTSTANDING: "outstanding_bytes",
    Metric.ALLOCATED: "allocated_bytes",
    Metric.COUNT: "outstanding_count",
    Metric.RESIDENT: "resident_bytes",
}


@dataclass(frozen=True, slots=True)
class Process:
    """A traced process.

    Attributes:
        host: Number of its machine in ``Merged.hosts``.
        sources: Numbers of its recordings.
        grows_s: Seconds of those whose growth is known.
    """

    host: int
    pid: int
    comm: str
    sources: tuple[int, ...]
    grows_s: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows, the columns of each array one after another.

    Attributes:
        keys: As ``KEYS``; ``MERGED`` for what was merged.
        figures: As ``read.FIGURES``.
        measured: Whether a resident part was measured.
        growth: Bytes a second, and the square of half of its 95 % interval.
        grows: Whether growth of any process of the row is known.
        sampled: Number of sampled blocks, and variance of outstanding bytes and count; None where all is exact.
        fates: As ``read.FATES``; None where nobody looked what became of blocks.
        n_hosts: Hosts of a row.
        n_processes: Processes of a row.
    """

    keys: npt.NDArray[np.int32]
    figures: Ints
    measured: npt.NDArray[np.bool_]
    growth: Floats
    grows: npt.NDArray[np.bool_]
    sampled: Floats | None
    fates: Ints | None
    n_hosts: npt.NDArray[np.int32]
    n_processes: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.keys)

    def figure(self, name: str) -> Ints:
        """One of ``read.FIGURES``."""
        return self.figures[:, FIGURES.index(name)]

    def take(self, places: Ints) -> Rows:
        """Some of the rows, in that order."""
        return Rows(
            self.keys[places],
            self.figures[places],
            self.measured[places],
            self.growth[places],
            self.grows[places],
            None if self.sampled is None else self.sampled[places],
            None if self.fates is None else self.fates[places],
            self.n_hosts[places],
            self.n_processes[places],
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A recording that could not be read: its name, why, and what to do."""

    name: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Merged:
    """All that a report of many recordings says.

    Attributes:
        sources: The recordings, in the order they were given.
        failures: Those that could not be read.
        hosts: Names of machines.
        rows: By host, process, kind, owner, path and pool.
        held_by: By the keys of a row: holders of its blocks with their numbers of blocks.
    """

    sources: tuple[Source, ...]
    failures: tuple[Failure, ...]
    hosts: tuple[str, ...]
    processes: tuple[Process, ...]
    paths: SharedPaths
    pools: Sequence[str]
    rows: Rows
    held_by: Mapping[tuple[int, ...], Mapping[str, int]] = field(default_factory=dict)

    @property
    def retired(self) -> Mapping[Kind, tuple[int, int]]:
        """Allocated bytes and count by kind, of sites that were dropped because all is freed."""
        sums = dict.fromkeys(KINDS, (0, 0))
        for source in self.sources:
            for kind, (n_bytes, n_blocks) in source.retired.items():
                sums[kind] = sums[kind][0] + n_bytes, sums[kind][1] + n_blocks
        return sums


class Merger:
    """Takes parts one by one, and puts them together at the end.

    Args:
        paths: Those that the parts count by.
        pools: Likewise.
    """

    def __init__(self, paths: SharedPaths, pools: Sequence[str]) -> None:
        self._paths, self._pools = paths, pools
        self._hosts: dict[str, int] = {}
        self._numbers: dict[tuple[int, str, int, str], int] = {}
        self._sources_of: list[list[int]] = []
        self._sources: list[Source] = []
        self._parts: list[Rows] = []
        self._held_by: dict[tuple[int, ...], Counter[str]] = {}

    def add(self, part: Part) -> None:
        """Take a part."""
        info = part.source.info
        host = self._hosts.setdefault(info.host_name, len(self._hosts))
        of_target = [self._process((host, info.boot_id, target.pid, target.comm)) for target in part.source.targets]
        if len(part.keys) and int(part.keys[:, 0].max()) == len(of_target):
            of_target.append(self._process((host, info.boot_id, 0, UNKNOWN_PROCESS)))
        process_of_row = np.array(of_target or [0], dtype=np.int32)[part.keys[:, 0]]
        n_rows = len(part.keys)
        ones = np.ones(n_rows, dtype=np.int32)
        keys = np.column_stack((np.full(n_rows, host, dtype=np.int32), process_of_row, part.keys[:, 1:]))
        for row, holders in part.held_by.items():
            self._held_by.setdefault(tuple(keys[row].tolist()), Counter()).update(holders)
        self._sources.append(part.source)
        self._parts.append(
            Rows(
                keys,
                part.figures,
                part.measured,
                part.growth,
                np.full(n_rows, part.source.grows, dtype=np.bool_),
                part.sampled,
                part.fates,
                ones,
                ones,
            )
        )

    def _process(self, key: tuple[int, str, int, str]) -> int:
        """Number of a process, which has the source that is added now."""
        process = self._numbers.setdefault(key, len(self._sources_of))
        if process == len(self._sources_of):
            self._sources_of.append([])
        self._sources_of[process].append(len(self._sources))
        return process

    def finish(self, failures: Sequence[Failure]) -> Merged:
        """All of it."""
        processes = tuple(
            Process(
                host,
                pid,
                comm,
                tuple(dict.fromkeys(self._sources_of[process])),
                sum(self._sources[i].duration_s for i in set(self._sources_of[process]) if self._sources[i].grows),
            )
            for (host, _, pid, comm), process in self._numbers.items()
        )
        whole_s = np.array([each.grows_s or 1.0 for each in processes])
        for source, part in zip(self._sources, self._parts, strict=True):
            if source.grows:
                weights = source.duration_s / whole_s[part.keys[:, KEYS.index("process")]]
                part.growth[:, 0] *= weights
                part.growth[:, 1] = (part.growth[:, 1] * weights) ** 2
            else:
                part.growth[:] = 0.0
        rows = _concatenated(self._parts)
        self._parts = []
        if any(len(each.sources) > 1 for each in processes):  # else no two rows have the same keys
            rows = group(rows, By.PROCESS)
        return Merged(
            tuple(self._sources), tuple(failures), tuple(self._hosts), processes, self._paths, self._pools, rows,
            self._held_by,
        )  # fmt: skip


def _concatenated(every: Sequence[Rows]) -> Rows:
    sampled, fates = None, None
    if any(rows.sampled is not None for rows in every):
        sampled = np.concatenate([np.zeros((len(rows), 3)) if rows.sampled is None else rows.sampled for rows in every])
    if any(rows.fates is not None for rows in every):
        none = [np.zeros((len(rows), len(FATES)), np.int64) for rows in every]
        fates = np.concatenate([none[i] if rows.fates is None else rows.fates for i, rows in enumerate(every)])
    ones = np.ones(sum(map(len, every)), dtype=np.int32)
    return Rows(
        np.concatenate([rows.keys for rows in every]),
        np.concatenate([rows.figures for rows in every]),
        np.concatenate([rows.measured for rows in every]),
        np.concatenate([rows.growth for rows in every]),
        np.concatenate([rows.grows for rows in every]),
        sampled,
        fates,
        ones,
        ones,
    )


def group(rows: Rows, by: By) -> Rows:
    """The rows merged by a key of ``formats.MERGED_BY``."""
    return merge_rows(rows, _APART[by])


def merge_rows(rows: Rows, apart: Sequence[str]) -> Rows:
    """The rows merged, but for these columns of ``KEYS``."""
    if not len(rows):
        return rows
    # Hosts and processes come last in the order, so that those of one row follow each other and are counted as they
    # change.
    columns = [rows.keys[:, KEYS.index(name)] for name in ("process", "host")]
    columns += [rows.keys[:, KEYS.index(name)] for name in KEYS if name in apart]
    order = np.lexsort(columns)
    changed = {name: _changes(rows.keys[order, i]) for i, name in enumerate(KEYS) if name in (*apart, *KEYS[:2])}
    begins = np.zeros(len(order), dtype=np.bool_)
    begins[0] = True
    for name in apart:
        begins |= changed[name]
    starts = np.flatnonzero(begins)
    keys = rows.keys[order[starts]]
    for i, name in enumerate(KEYS):
        if name not in apart:
            keys[:, i] = MERGED
    return Rows(
        keys,
        _sums(rows.figures, order, starts),
        np.logical_or.reduceat(rows.measured[order], starts),
        _sums(rows.growth, order, starts),
        np.logical_or.reduceat(rows.grows[order], starts),
        None if rows.sampled is None else _sums(rows.sampled, order, starts),
        None if rows.fates is None else _sums(rows.fates, order, starts),
        np.add.reduceat((begins | changed["host"]).astype(np.int32), starts),
        np.add.reduceat((begins | changed["host"] | changed["process"]).astype(np.int32), starts),
    )


def _sums(table: npt.NDArray[_Number], order: Ints, starts: Ints) -> npt.NDArray[_Number]:
    """Sums of each group, column by column: a copy of all columns in order would take their memory once more."""
    summed = np.empty((len(starts), table.shape[1]), dtype=table.dtype)
    for i in range(table.shape[1]):
        summed[:, i] = np.add.reduceat(table[order, i], starts)
    return summed


def ranked(rows: Rows, selection: Selection, *, with_freed: bool = False) -> Rows:
    """The rows to show, largest metric first: those that hold something, or allocated where that is the metric."""
    held = (rows.figure("outstanding_bytes") > 0) | (rows.figure("outstanding_count") > 0)
    if with_freed or selection.metric is Metric.ALLOCATED:
        held |= rows.figure("allocated_count") > 0
    values = metric_values(rows, selection.metric)
    if selection.min_bytes:
        in_bytes = selection.metric not in (Metric.COUNT, Metric.GROWTH)
        held &= (values if in_bytes else rows.figure("outstanding_bytes")) >= selection.min_bytes
    shown = np.flatnonzero(held)
    order = shown[np.lexsort((-rows.figure("outstanding_bytes")[shown], -values[shown]))]
    return rows.take(order if selection.top is None else order[: selection.top])


def metric_values(rows: Rows, metric: Metric) -> npt.NDArray[np.int64] | Floats:
    """The metric of each row; growth in bytes a second."""
    if metric is Metric.GROWTH:
        return rows.growth[:, 0]
    return rows.figure(_COLUMN[metric])


def _changes(column: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return np.concatenate((np.zeros(1, dtype=np.bool_), column[1:] != column[:-1]))
