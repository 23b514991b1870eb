"""Reads many recordings, several at a time, and goes on where one cannot be read."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from nativeleak.analysis.resident import snapshot_at
from nativeleak.analysis.select import Selection, function_pattern
from nativeleak.analysis.shared_paths import NewPaths, SharedPaths
from nativeleak.errors import NativeleakError, RecordingError
from nativeleak.recording import open_recording
from nativeleak.recording.moment import RecordingAt
from nativeleak.reports.merged.merge import Failure, Merged, Merger
from nativeleak.reports.merged.read import Part, Pools, read_part
from nativeleak.reports.stages import begin

_MAX_READERS: Final = 4
_FEW: Final = 8
"""So few recordings are read sooner than a second reader is started."""

_SHARE: Final = 4
"""Recordings that a reader hands over together: they are in memory twice for that time."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What a reader read.

    Attributes:
        reader: Tells readers apart.
        parts: Of the recordings that can be read; they count by the reader's own paths and pools.
        paths: Those that are new since the reader handed over before.
        pools: Likewise.
    """

    reader: int
    parts: list[Part]
    failures: list[Failure]
    paths: NewPaths
    pools: list[str]


def gather(files: Sequence[Path], selection: Selection, at: str | None = None) -> Merged:
    """The report of many recordings.

    Args:
        files: The recordings; each is read once, however often and by which name it is given.
        selection: Filters of threads and functions.
        at: A moment of each trace, as ``analysis.resident.snapshot_at`` takes it; None for the end.

    Raises:
        RecordingError: None can be read.
        UsageError: A filter or the moment makes no sense.
    """
    files = list({os.path.realpath(path): path for path in reversed(files)}.values())[::-1]
    failures: list[Failure] = []
    paths, pools = SharedPaths(), Pools()
    merger = Merger(paths, pools.names)
    numbers: dict[int, tuple[list[int], list[int], list[int]]] = {}
    n_read = 0
    for read in _read_all(files, selection, at):
        of_step, of_path, of_pool = numbers.setdefault(read.reader, ([], [], []))
        of_path += paths.absorb(read.paths, of_step)
        of_pool += map(pools.number, read.pools)
        path_of, pool_of = np.array(of_path, dtype=np.int32), np.array(of_pool, dtype=np.int32)
        for part in read.parts:
            part.keys[:, 3], part.keys[:, 4] = path_of[part.keys[:, 3]], pool_of[part.keys[:, 4]]
            merger.add(part)
        failures += read.failures
        n_read += len(read.parts) + len(read.failures)
        begin(f"{n_read} of {len(files)} recordings", 0.7 * n_read / len(files))
    if len(failures) == len(files):
        raise RecordingError(failures[0].what, failures[0].remedy)
    begin("merging", 0.7)
    return merger.finish(failures)


def _read_all(files: Sequence[Path], selection: Selection, at: str | None) -> Iterator[_Read]:
    readers = min(_MAX_READERS, os.cpu_count() or 1, len(files) // _FEW)
    shares = [files[i : i + _SHARE] for i in range(0, len(files), _SHARE)]
    if readers < 2:
        reader = _Reader(selection, at)
        yield from map(reader.read, shares)
        return
    # Forked: a new interpreter would load numpy once more. This process has one thread.
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(readers, context, initializer=_start, initargs=(selection, at)) as pool:
            waiting = [pool.submit(_read_share, share) for share in shares]
            # A reader's shares come back in the order in which it read them, which its numbers rely on.
            while waiting:
                yield waiting.pop(0).result()
    except BrokenProcessPool as error:
        raise NativeleakError(
            "report failed: a process that read recordings was killed", "Is memory short? Name fewer recordings."
        ) from error


class _Reader:
    """Reads recordings; paths and pools keep their numbers from one share to the next."""

    def __init__(self, selection: Selection, at: str | None) -> None:
        self._selection, self._at = selection, at
        self._paths, self._pools = SharedPaths(function_pattern(selection.function)), Pools()
        self._n_pools = 0

    def read(self, files: Sequence[Path]) -> _Read:
        parts: list[Part] = []
        failures: list[Failure] = []
        for path in files:
            try:
                parts.append(self._part(path))
            except RecordingError as error:
                failures.append(Failure(str(path), error.what, error.remedy))
        pools = self._pools.names[self._n_pools :]
        self._n_pools += len(pools)
        return _Read(os.getpid(), parts, failures, self._paths.take_new(), pools)

    def _part(self, path: Path) -> Part:
        with open_recording(path) as recording:
            if self._at is None:
                return read_part(recording, self._paths, self._pools, self._selection)
            if not recording.snapshots:
                raise RecordingError(f"reading {path} failed: the recording ends before its first snapshot")
            then = RecordingAt(recording, snapshot_at(recording, self._at))
            return read_part(then, self._paths, self._pools, self._selection)


_readers: list[_Reader] = []
"""The one of this process, if it is a reader."""


def _start(selection: Selection, at: str | None) -> None:
    _readers[:] = [_Reader(selection, at)]


def _read_share(files: Sequence[Path]) -> _Read:
    return _readers[0].read(files)
