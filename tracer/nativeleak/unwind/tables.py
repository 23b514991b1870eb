"""Unwind tables of the traced processes: which objects are mapped where, their tables built and put into the kernel.

The table of an object is made once for all processes. The tables that the first stacks need (C library, C++ library,
executable) are made before anything is attached; the others one at a time, large ones in a child process, and a trace
waits for them for some seconds at most (``wait``).
Until an object has its table, its callers are guesses by frame pointers and marked as such.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from nativeleak.errors import NativeleakError
from nativeleak.process.mapped import MappedObject, executable_objects, open_object
from nativeleak.process.namespaces import max_open_files
from nativeleak.process.procfs import MapEntry, read_maps
from nativeleak.symbols.elf import ElfError, ElfFile
from nativeleak.symbols.source import BytesSource, FileSource
from nativeleak.unwind import builder
from nativeleak.unwind.cache import TableCache, default_folder
from nativeleak.unwind.table import UnwindTable, build_table

NO_TABLE: Final = 0xFFFFFFFF
_FIRST: Final = ("libc.so", "libc-", "libstdc++", "libc++", "ld-linux", "ld-musl", "libc.musl")
_WORK_S: Final = 0.05
"""Time limit of one round of taking over ready tables; the last table may exceed it."""
_MAX_VDSO_BYTES: Final = 1 << 20
_PF_X: Final = 1
_FULL_FLAG: Final = 1 << 16
_FORMAT_WORD: Final = slice(20, 24)

ObjectKey = tuple[str, int]
MappingRow = tuple[int, int, int, int]
"""(start, end, bias, table) of an executable mapping."""


class TableStore(Protocol):
    """Receiver of tables and mappings: the BPF engine."""

    def add_table(self, words: bytes) -> int:
        """Store a table; returns its index."""

    @property
    def max_mappings(self) -> int:
        """Maximum executable mappings of a target."""

    def set_mappings(self, slot: int, mappings: Sequence[tuple[int, int, int, int]]) -> None:
        """Set where code is mapped: (start, end, bias, table), in order of address; ``max_mappings`` at most."""


@dataclass(slots=True)
class _Object:
    """One file, or the vdso: its table, once it exists, and its segments."""

    name: str
    loads: tuple[tuple[int, int, int], ...] = ()
    """(file offset, vaddr, bytes in the file) of each segment that is loaded."""
    build_id: str = ""
    index: int = NO_TABLE
    full_index: int = NO_TABLE
    reason: str = ""
    is_built: bool = False
    wants_full: bool = False


@dataclass(slots=True)
class _Job:
    """A table to be made. Its file is open already, or -1, so that it cannot vanish before its turn."""

    pid: int
    mapped: MappedObject
    fd: int
    full: bool
    build: builder.TableBuild | None = None


@dataclass(slots=True)
class ProcessMappings:
    """Executable mappings of one target."""

    slot: int
    pid: int
    entries: list[MapEntry] = field(default_factory=list)
    written: tuple[tuple[int, int, int, int], ...] = ()
    n_left_out: int = 0


class UnwindTables:
    """Tables of all targets of a trace.

    Args:
        store: Receives them.
        on_note: Receives (word, sentence) for the recording, such as objects without unwind information.
    """

    def __init__(self, store: TableStore, on_note: Callable[[str, str], None]) -> None:
        self._store = store
        self._on_note = on_note
        self._cache = TableCache(default_folder())
        self._objects: dict[ObjectKey, _Object] = {}
        self._targets: dict[int, ProcessMappings] = {}
        self._jobs: list[_Job] = []
        self._max_open = max_open_files() // 4
        self._has_told = False
        self.build_s = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether tables are still being made."""
        return bool(self._jobs)

    @property
    def without_tables(self) -> dict[str, str]:
        """Reasons of objects without a table, by name."""
        return {obj.name: obj.reason for obj in self._objects.values() if obj.is_built and obj.index == NO_TABLE}

    def add_target(self, slot: int, pid: int) -> None:
        """Add a process; its most needed tables are in the kernel when this returns.

        Raises:
            NoTargetError: The process has exited.
        """
        self._targets[slot] = ProcessMappings(slot, pid)
        maps = read_maps(pid, executable_only=True)
        self._take(self._targets[slot], maps)
        exe_key = _executable_key(pid)
        self._finish_now([job for job in self._jobs if self._is_first(job.mapped.key, exe_key)])
        self._write(self._targets[slot])

    def finish(self, slot: int, key: ObjectKey) -> None:
        """Put the table of an object into the kernel now, because every stack will begin in it."""
        jobs = [job for job in self._jobs if job.mapped.key == key]
        if jobs:
            self._finish_now(jobs)
            self._write(self._targets[slot])

    def _finish_now(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            self._jobs.remove(job)
            if job.fd >= 0 or self._open(job):
                self._finish(job, self._build_now(job))

    def refresh(self, slot: int) -> None:
        """Read a process's mappings again, after code was mapped."""
        target = self._targets.get(slot)
        if target is None:
            return
        with contextlib.suppress(NativeleakError):
            self._take(target, read_maps(target.pid, executable_only=True))
            self._write(target)

    def work(self) -> None:
        """Take over tables that are ready, and begin the next. Never waits.

        Cached tables are ready at once; one round takes all of them, within limits.
        """
        until_s = time.monotonic() + _WORK_S
        n_finished = 0
        while self._jobs and time.monotonic() < until_s and self._work_on(self._jobs[0]):
            n_finished += 1
        if n_finished:
            for target in self._targets.values():
                self._write(target)
        if self._objects and not self._jobs and not self._has_told:
            self._has_told = True
            self._on_note("unwind", f"all {len(self._objects)} objects have their unwind tables, if one can be made")

    def wait(self, until_s: float) -> None:
        """Make tables until all are in the kernel, or until a moment of CLOCK_MONOTONIC.

        Tables that are not ready by then are made along the way, as ever.
        """
        self.work()
        while self._jobs and (left_s := until_s - time.monotonic()) > 0:
            build = self._jobs[0].build
            if build is not None:
                select.select([build], [], [], left_s)
            self.work()

    def _work_on(self, job: _Job) -> bool:
        """Begin a table if it has not begun, and take it over if it is ready; returns whether it was."""
        if job.fd < 0 and not self._open(job):
            self._jobs.pop(0)
            return True
        if job.build is None:
            build_id = self._objects[job.mapped.key].build_id
            job.build = builder.start_build(job.fd, build_id, full=job.full, cache=self._cache)
        if not job.build.poll():
            return False
        self._jobs.pop(0)
        with job.build as done:
            self._finish(job, done.result())
        return True

    def want_full(self, slot: int, addresses: Iterable[int]) -> None:
        """Request full tables for the code that a signal interrupted, because the walk enters it at any address."""
        target = self._targets.get(slot)
        if target is None:
            return
        for address in addresses:
            entry = next((e for e in target.entries if e.start <= address < e.end), None)
            obj = self._objects.get((entry.dev, entry.inode)) if entry else None
            if entry is None or obj is None or obj.wants_full or obj.index == NO_TABLE:
                continue
            obj.wants_full = True
            for mapped in executable_objects(target.pid, [entry]):
                self._queue(target.pid, mapped, full=True)

    def close(self) -> None:
        """Stop making tables."""
        for job in self._jobs:
            if job.build is not None:
                job.build.close()
            if job.fd >= 0:
                os.close(job.fd)
        self._jobs.clear()

    # Objects

    def _take(self, target: ProcessMappings, maps: Sequence[MapEntry]) -> None:
        target.entries = [entry for entry in maps if entry.executable and entry.path != "[vsyscall]"]
        for mapped in executable_objects(target.pid, maps):
            if mapped.key not in self._objects:
                self._objects[mapped.key] = _Object(mapped.name)
                if mapped.is_vdso:
                    self._take_vdso(target.pid, mapped)
                else:
                    self._queue(target.pid, mapped, full=False)

    def _take_vdso(self, pid: int, mapped: MappedObject) -> None:
        """Add the vdso, the kernel's code in every process: it is small and in no file."""
        obj = self._objects[mapped.key]
        obj.is_built = True
        start, end, _ = mapped.ranges[0]
        try:
            fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                source = BytesSource(os.pread(fd, min(end - start, _MAX_VDSO_BYTES), start))
            finally:
                os.close(fd)
            with ElfFile(source) as elf:
                obj.loads = _loads(elf)
            self._keep(obj, build_table(source, full=True))
        except (OSError, ElfError) as error:
            obj.reason = str(error)

    def _queue(self, pid: int, mapped: MappedObject, *, full: bool) -> None:
        job = _Job(pid, mapped, -1, full)
        if len(self._jobs) >= self._max_open or self._open(job):
            self._jobs.append(job)

    def _open(self, job: _Job) -> bool:
        """Open the file of a job and find its code; returns whether a table can be made."""
        obj = self._objects[job.mapped.key]
        try:
            job.fd = open_object(job.pid, job.mapped)
        except OSError as error:
            obj.is_built, obj.reason = True, error.strerror or str(error)
            return False
        try:
            with ElfFile(FileSource(os.dup(job.fd))) as elf:
                obj.loads, obj.build_id = _loads(elf), elf.build_id
        except (ElfError, OSError) as error:
            os.close(job.fd)
            obj.is_built, obj.reason = True, str(error)
            return False
        return True

    def _is_first(self, key: ObjectKey, exe_key: ObjectKey | None) -> bool:
        return key == exe_key or self._objects[key].name.startswith(_FIRST)

    def _build_now(self, job: _Job) -> UnwindTable:
        return builder.build(job.fd, self._objects[job.mapped.key].build_id, full=job.full, cache=self._cache)

    def _finish(self, job: _Job, table: UnwindTable) -> None:
        os.close(job.fd)
        self._keep(self._objects[job.mapped.key], table)

    def _keep(self, obj: _Object, table: UnwindTable) -> None:
        started_s = time.monotonic()
        obj.is_built = True
        if not table.words:
            obj.reason = table.reason or "no unwind information"
            self._on_note("unwind", f"{obj.name} has no unwind information ({obj.reason}): its callers are guesses")
            return
        try:
            index = self._store.add_table(_marked(table))
        except OSError as error:
            obj.reason = str(error)
            self._on_note("unwind", f"the unwind table of {obj.name} was dropped: {error}")
            return
        if table.full:
            obj.full_index = index
        obj.index = index
        self.build_s += time.monotonic() - started_s

    # Mappings

    def _write(self, target: ProcessMappings) -> None:
        rows = tuple(self._row(entry) for entry in sorted(target.entries))
        if rows == target.written:
            return
        target.written = rows
        self._store.set_mappings(target.slot, most_needed(rows, self._store.max_mappings))
        n_left_out = len(rows) - self._store.max_mappings
        if n_left_out > target.n_left_out:
            self._on_note(
                "limits",
                f"{n_left_out:,} of {len(target.written):,} executable mappings of PID {target.pid} were dropped "
                "(map full): stacks end at code in them",
            )
        target.n_left_out = max(n_left_out, target.n_left_out)

    def _row(self, entry: MapEntry) -> tuple[int, int, int, int]:
        obj = self._objects.get((entry.dev, entry.inode)) if entry.inode or entry.path == "[vdso]" else None
        if obj is None or obj.index == NO_TABLE:
            return entry.start, entry.end, 0, NO_TABLE
        offset = 0 if entry.path == "[vdso]" else entry.offset
        for file_offset, vaddr, n_bytes in obj.loads:
            # The kernel maps whole pages: the mapping begins at or before the segment.
            if offset < file_offset + n_bytes and file_offset < offset + (entry.end - entry.start):
                return entry.start, entry.end, entry.start - offset + file_offset - vaddr, obj.index
        return entry.start, entry.end, 0, NO_TABLE


def most_needed(rows: Sequence[MappingRow], n: int) -> Sequence[MappingRow]:
    """``n`` of the mappings, in order of address; objects with tables and with few mappings come first."""
    if len(rows) <= n:
        return rows
    n_of_table = Counter(row[3] for row in rows)
    n_of_table[NO_TABLE] = len(rows)
    return sorted(sorted(rows, key=lambda row: n_of_table[row[3]])[:n])


def _loads(elf: ElfFile) -> tuple[tuple[int, int, int], ...]:
    return tuple((load.offset, load.vaddr, load.file_bytes) for load in elf.loads if load.flags & _PF_X)


def _marked(table: UnwindTable) -> bytes:
    """The words, with the flag for the kernel side that the table covers every address."""
    if not table.full:
        return table.words
    words = bytearray(table.words)
    word = int.from_bytes(words[_FORMAT_WORD], "little") | _FULL_FLAG
    words[_FORMAT_WORD] = word.to_bytes(4, "little")
    return bytes(words)


def _executable_key(pid: int) -> ObjectKey | None:
    """Device and inode of the executable, as /proc/PID/maps prints them."""
    try:
        status = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return None
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", status.st_ino
