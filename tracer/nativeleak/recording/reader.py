"""Reads a recording, complete or cut off, without changing it.

Scope: needs neither the target nor its machine nor root. A writer that was killed during a commit leaves a journal
beside the file; SQLite rolls it back, in a private copy if the folder is not writable.

Caveat: a recording is untrusted input. It is checked before use, and data that does not decode is reported as damage.
Names are passed on unchanged; reports escape them. The file has no checksums, so a flipped bit inside a number goes
unnoticed.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Final, Self

from nativeleak.closing import Closing
from nativeleak.errors import RecordingError
from nativeleak.model import (
    CERTAIN,
    BlockChunk,
    Child,
    Frame,
    FrameKind,
    HeapCensus,
    Look,
    RuntimeInfo,
    SiteFate,
    SiteKey,
    SiteTotals,
    Stack,
    TargetEnd,
    TargetInfo,
    ThreadInfo,
    Uncertainty,
    UnmapTotals,
    Unwatched,
)
from nativeleak.recording import opening
from nativeleak.recording.columns import check_columns, parse_number, parse_texts
from nativeleak.recording.fates import read_census, read_fates, read_looks
from nativeleak.recording.memory import RecordedMemory
from nativeleak.recording.opening import has_table
from nativeleak.recording.rows import Row, read_frame, read_retired, read_site, read_unmapped
from nativeleak.recording.schema import JVM, Samples, to_signed, to_unsigned, unpack_ids, unpack_samples
from nativeleak.recording.sites import BirthSlices, SiteColumns, StackColumns, read_columns, read_numbers
from nativeleak.recording.values import parse_trace_values, parse_windows

_UNREADABLE: Final = (sqlite3.Error, ValueError, KeyError, TypeError, IndexError, AttributeError, MemoryError)
"""Exceptions that decoding a damaged file raises."""
_MOST_FRAMES: Final = 1 << 24
"""Ids of frames are counted from 0 in the order they come; a table by id must not take all memory."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """Facts of one snapshot about the whole trace; attributes as in ``model.Snapshot``."""

    elapsed_s: float
    rss_bytes: int
    slice_s: float
    probe_hits: int
    probe_cost_ns: float
    target_cpu_s: float
    tracer_cpu_s: float
    tracer_max_rss_bytes: int
    counters: Mapping[str, int]


NO_SNAPSHOT: Final = SnapshotInfo(0.0, 0, 0.0, 0, 0.0, 0.0, 0.0, 0, {})


@dataclass(frozen=True, slots=True)
class Event:
    """A note about the trace: seconds since its start, one word for machines, one sentence for people."""

    elapsed_s: float
    what: str
    text: str


class Recording(Closing):
    """An open recording; get one from ``open_recording`` or ``Recording.from_bytes``.

    Attributes:
        name: Path it was opened by, for messages.
        info: Facts known when the trace started.
        targets: By slot.
        threads: By ``ThreadInfo.uid``.
        snapshots: In the order they were taken.
        events: In the order they were added.
        end_reason: Why the trace ended; None if the recorder was killed.
        recording_error: Why and when the file could no longer be written; None if it always could.
        windows: Level of detail of each part of the trace; empty in recordings of versions without windows.
    """

    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self.name = name
        self._db = db
        with self.damage_reported():
            check_columns(db)
            values = dict(db.execute("SELECT name, value FROM trace"))
            self.info = parse_trace_values(values)
            self.end_reason: str | None = values.get("end_reason")
            self.recording_error: str | None = values.get("recording_error")
            self.windows = parse_windows(values.get("windows", "[]"))
            runtimes, unwatched, children = _runtimes(db), _unwatched(db), self._children()
            self.targets = tuple(
                replace(
                    _target(row, runtimes.get(row[0])),
                    unwatched=tuple(each for slot, each in unwatched if slot == row[0]),
                    children=tuple(each for slot, each in children if slot == row[0]),
                )
                for row in db.execute("SELECT * FROM targets ORDER BY slot")
            )
            self.threads = {row[0]: _thread(row) for row in db.execute("SELECT * FROM threads")}
            self.snapshots = tuple(map(_snapshot, db.execute("SELECT * FROM snapshots ORDER BY id")))
            self.events = tuple(
                Event(*row) for row in db.execute("SELECT elapsed_s, what, text FROM events ORDER BY id")
            )

    def _children(self) -> list[tuple[int, Child]]:
        """With the slot of each, largest growth first; empty in recordings older than their table."""
        if not has_table(self._db, "children"):
            return []
        rows = self._db.execute(
            "SELECT slot, pid, comm, rss_bytes, growth_bytes, alive, as_much FROM children"
            " ORDER BY slot, growth_bytes DESC, rss_bytes DESC, pid"
        )
        return [
            (slot, Child(pid, str(comm), rss, growth, bool(alive), bool(as_much)))
            for slot, pid, comm, rss, growth, alive, as_much in rows
        ]

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "recording in memory") -> Self:
        """A recording from ``RecordingWriter.serialize`` or from the bytes of a file.

        Raises:
            RecordingError: The bytes are no readable recording.
        """
        return cls(opening.connect_bytes(data, name), name)

    @cached_property
    def sites(self) -> tuple[SiteTotals, ...]:
        """Latest totals of all sites, in the order of ``Samples.site_id``; dropped sites have empty totals."""
        with self.damage_reported():
            rows = self._db.execute("SELECT * FROM sites ORDER BY id").fetchall()
            if [row[0] for row in rows] != list(range(len(rows))):
                raise ValueError("site ids have gaps")
            uncertain = self.uncertainties()
            return tuple(read_site(row, self.elapsed_s, uncertain.get(row[0], CERTAIN)) for row in rows)

    @cached_property
    def site_columns(self) -> SiteColumns:
        """The same as columns: far less memory and time where there are very many sites."""
        with self.damage_reported():
            return read_columns(self._db, self.elapsed_s, self.uncertainties())

    @cached_property
    def birth_slices(self) -> list[BirthSlices]:
        """Birth slices of all sites that have any."""
        with self.damage_reported():
            return self.site_columns.birth_slices()

    def uncertainties(self) -> Mapping[int, Uncertainty]:
        """Uncertainty of the sampled sites, by site id."""
        with self.damage_reported():
            if not has_table(self._db, "sampling"):
                return {}
            rows = self._db.execute("SELECT site_id, n_sampled, variance_bytes, variance_count FROM sampling")
            return {row[0]: Uncertainty(int(row[1]), float(row[2]), float(row[3])) for row in rows}

    @cached_property
    def retired(self) -> tuple[SiteTotals, ...]:
        """Totals of dropped sites, by kind, target and owner; they are part of all allocated and freed bytes."""
        with self.damage_reported():
            return tuple(map(read_retired, self._db.execute("SELECT * FROM retired")))

    @cached_property
    def memory(self) -> RecordedMemory:
        """Limits and resident memory; empty in recordings of versions that did not record them."""
        with self.damage_reported():
            return RecordedMemory.read(self._db)

    @cached_property
    def unmapped(self) -> tuple[UnmapTotals, ...] | None:
        """Callers that unmapped, by target and number; None in recordings of versions that did not record them."""
        with self.damage_reported():
            if not has_table(self._db, "unmapped"):
                return None
            return tuple(map(read_unmapped, self._db.execute("SELECT * FROM unmapped ORDER BY slot, number")))

    def blocks(self) -> list[BlockChunk]:
        """Outstanding heap blocks at the end of the trace; none unless it kept them."""
        with self.damage_reported():
            if not has_table(self._db, "blocks"):
                return []
            return [BlockChunk(*row) for row in self._db.execute("SELECT n, columns FROM blocks ORDER BY number")]

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """Looks for holders of the outstanding blocks after the trace, by target; none unless it was asked for."""
        with self.damage_reported():
            return read_looks(self._db)

    @cached_property
    def census(self) -> tuple[HeapCensus, ...]:
        """Walks of the targets' heaps before and after the trace, by target; none unless it was asked for."""
        with self.damage_reported():
            return read_census(self._db)

    def fates(self) -> list[SiteFate]:
        """What these looks found of the blocks of each site."""
        with self.damage_reported():
            return read_fates(self._db)

    @property
    def last_snapshot(self) -> SnapshotInfo:
        """The last snapshot; an empty one before the first."""
        return self.snapshots[-1] if self.snapshots else NO_SNAPSHOT

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start of the trace to the last snapshot; 0.0 without one."""
        return self.snapshots[-1].elapsed_s if self.snapshots else 0.0

    def stack(self, key: int) -> Stack | None:
        """The stack with this key; None if it was lost."""
        with self.damage_reported():
            row = self._db.execute(
                "SELECT frames, truncated, end FROM stacks WHERE key = ?", (to_signed(key),)
            ).fetchone()
            if row is None:
                return None
            ids = unpack_ids(*self._packed_frames([row[0]]))
            return Stack(key, tuple(map(self.frames.__getitem__, ids)), bool(row[1]), row[2])

    def stacks(self, keys: Collection[int]) -> Iterator[Stack]:
        """These stacks, in no order, without those that were lost."""
        with self.damage_reported():
            frames = self.frames.__getitem__
            for signed, blob, truncated, end in self._db.execute("SELECT key, frames, truncated, end FROM stacks"):
                if (key := to_unsigned(signed)) in keys:
                    ids = unpack_ids(*self._packed_frames([blob]))
                    yield Stack(key, tuple(map(frames, ids)), bool(truncated), end)

    def stack_columns(self, keys: Collection[int]) -> StackColumns:
        """These stacks in the order of their signed keys, without those that were lost."""
        with self.damage_reported():
            rows = self._db.execute("SELECT key, frames, end FROM stacks ORDER BY key").fetchall()
            wanted = [(key, blob, end) for signed, blob, end in rows if (key := to_unsigned(signed)) in keys]
            blobs = self._packed_frames([blob for _, blob, _ in wanted])
            if any(len(blob) % 4 for blob in blobs):
                raise ValueError("half a frame in a stack")
            frames = unpack_ids(b"".join(blobs))
            if not frozenset(self.frames).issuperset(frames):
                raise ValueError("a stack with an unknown frame")
            bounds = list(accumulate((len(blob) // 4 for blob in blobs), initial=0))
            return StackColumns([key for key, _, _ in wanted], bounds, frames, [end for _, _, end in wanted])

    def _packed_frames(self, blobs: list[bytes]) -> list[bytes]:
        """Ids of ``frames`` of stacks, leaf first, as ``schema.pack_ids`` writes them, from those in the file."""
        return blobs

    @cached_property
    def n_sites(self) -> int:
        """Number of sites."""
        with self.damage_reported():
            return int(self._db.execute("SELECT count(*) FROM sites").fetchone()[0])

    def site_numbers(self) -> array[int]:
        """The latest totals of all sites as numbers, ``len(SITE_NUMBERS)`` a site: less than ``site_columns``.

        Kind and owner are positions in ``model.Kind`` and ``model.Owner``, stack keys are signed, and resident bytes
        that were not measured are -1.
        """
        with self.damage_reported():
            return read_numbers(self._db)

    def packed_stacks(self) -> tuple[list[int], list[bytes]]:
        """Keys of all stacks, signed and in order, and the frames of each as ``schema.pack_ids`` writes them."""
        with self.damage_reported():
            rows = self._db.execute("SELECT key, frames FROM stacks ORDER BY key").fetchall()
            return [key for key, _ in rows], [blob for _, blob in rows]

    def frame_names(self) -> list[tuple[int, str, str | None, str, str | None]]:
        """Id, function, module, kind and file of each frame: less than ``frames``, for many recordings."""
        with self.damage_reported():
            kinds = frozenset(kind.value for kind in FrameKind)
            rows = self._db.execute("SELECT id, function, module, kind, file FROM frames").fetchall()
            if not kinds.issuperset({row[3] for row in rows}):
                raise ValueError("a frame of an unknown kind")
            if rows and max(row[0] for row in rows) > _MOST_FRAMES:
                raise ValueError("the id of a frame is too high")
            return rows

    def samples(self) -> Iterator[Samples]:
        """For each snapshot the sites whose totals had changed; a site without a sample keeps its last values."""
        with self.damage_reported():
            n_sites = self.n_sites
            for n_samples, blob in self._db.execute("SELECT n_samples, samples FROM snapshots ORDER BY id"):
                if not 0 <= n_samples <= n_sites:
                    raise ValueError("more samples than sites")
                samples = unpack_samples(blob, n_samples)
                if samples.site_id and max(samples.site_id) >= n_sites:
                    raise ValueError("a sample of an unknown site")
                yield samples

    def series(self, key: SiteKey) -> list[tuple[float, int, int]]:
        """Course of one site: (elapsed_s, outstanding bytes, outstanding count) at every snapshot."""
        number = next((i for i, site in enumerate(self.sites) if site.key == key), None)
        course = []
        n_bytes = n_count = 0
        for snapshot, samples in zip(self.snapshots, self.samples(), strict=True):
            with contextlib.suppress(ValueError):
                at = samples.site_id.index(number) if number is not None else None
                if at is not None:
                    n_bytes, n_count = samples.outstanding_bytes[at], samples.outstanding_count[at]
            course.append((snapshot.elapsed_s, n_bytes, n_count))
        return course

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @cached_property
    def frames(self) -> dict[int, Frame]:
        """All frames, by their ids."""
        with self.damage_reported():
            return {row[0]: read_frame(row) for row in self._db.execute("SELECT * FROM frames")}

    @contextlib.contextmanager
    def damage_reported(self) -> Iterator[None]:
        """Turns the exceptions of decoding a damaged file into a ``RecordingError`` that names it."""
        try:
            yield
        except _UNREADABLE as error:
            raise opening.damaged(self.name, error) from error


def open_recording(path: Path) -> Recording:
    """Opens a recording for reading; also a named pipe or ``/proc/self/fd/N``.

    Raises:
        RecordingError: There is no such file, it is no recording, it is damaged, or a newer version wrote it.
    """
    try:
        return Recording(opening.connect_file(path), str(path))
    except OSError as error:
        raise RecordingError(f"reading {path} failed: {error.strerror}", "Check the path and its rights.") from error


def _runtimes(db: sqlite3.Connection) -> dict[int, RuntimeInfo]:
    """By slot; empty in recordings older than their table."""
    if not has_table(db, "runtimes"):
        return {}
    rows = db.execute("SELECT slot, name, version FROM runtimes")
    return {slot: RuntimeInfo(str(name), str(version)) for slot, name, version in rows}


def _unwatched(db: sqlite3.Connection) -> list[tuple[int, Unwatched]]:
    """With the slot of each; empty in recordings older than their table."""
    if not has_table(db, "unwatched"):
        return []
    rows = db.execute("SELECT slot, object, allocator, prefix, why FROM unwatched ORDER BY slot, number")
    return [(slot, Unwatched(*map(str, texts))) for slot, *texts in rows]


def _target(row: Row, runtime: RuntimeInfo | None) -> TargetInfo:
    slot, pid, comm, exe, jvm_version, allocators, end, end_signal = row
    if runtime is None and jvm_version is not None:
        runtime = RuntimeInfo(JVM, jvm_version)
    return TargetInfo(slot, pid, comm, exe, runtime, parse_texts(allocators), TargetEnd(end), end_signal)


def _thread(row: Row) -> ThreadInfo:
    uid, slot, tid, name, alive = row
    return ThreadInfo(uid, slot, tid, name, bool(alive))


def _snapshot(row: Row) -> SnapshotInfo:
    counters = {str(name): parse_number(value) for name, value in json.loads(row[9]).items()}
    elapsed_s, rss_bytes, slice_s, probe_hits, cost_ns, target_cpu_s, tracer_cpu_s, max_rss_bytes = row[1:9]
    return SnapshotInfo(
        elapsed_s, rss_bytes, slice_s, probe_hits, cost_ns, target_cpu_s, tracer_cpu_s, max_rss_bytes, counters
    )
