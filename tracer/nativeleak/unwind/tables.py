"""Unwind tables of the traced processes: which objects are mapped where, their tables built and put into the kernel.

Tables are made once for an object, whoever maps it, in this order: what the first stacks need (C library, C++ library,
the executable) before anything is attached, the rest afterwards, one at a time, the large ones in a process of their
own. Until an object has its table its frames are guessed by frame pointers, and marked.
"""

from __future__ import annotations

import contextlib
import os
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
"""Longest time of one go at tables that are ready, but for the last of them."""
_MAX_VDSO_BYTES: Final = 1 << 20
_PF_X: Final = 1
_FULL_FLAG: Final = 1 << 16
_FORMAT_WORD: Final = slice(20, 24)

ObjectKey = tuple[str, int]
MappingRow = tuple[int, int, int, int]
"""(start, end, bias, table) of an executable mapping."""


class TableStore(Protocol):
    """Where tables and mappings go: the BPF engine."""

    def add_table(self, words: bytes) -> int:
        """Keep a table; returns its index."""

    @property
    def max_mappings(self) -> int:
        """How many executable mappings of a target can be told of."""

    def set_mappings(self, slot: int, mappings: Sequence[tuple[int, int, int, int]]) -> None:
        """Say where code is mapped: (start, end, bias, table), in order of address; ``max_mappings`` at most."""


@dataclass(slots=True)
class _Object:
    """One file, or the vdso: its table once there is one, and what is needed to place it."""

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
    """A table to be made; the file is open already, so that it is still there when its turn comes, or -1."""

    pid: int
    mapped: MappedObject
    fd: int
    full: bool
    build: builder.TableBuild | None = None


@dataclass(slots=True)
class ProcessMappings:
    """What is mapped executable into one target."""

    slot: int
    pid: int
    entries: list[MapEntry] = field(default_factory=list)
    written: tuple[tuple[int, int, int, int], ...] = ()
    n_left_out: int = 0


class UnwindTables:
    """Tables of all targets of a trace.

    Args:
        store: Where they go.
        on_note: Gets (word, sentence) for the recording: objects without unwind information.
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
        """Whether objects are still without the table they will have."""
        return bool(self._jobs)

    @property
    def without_tables(self) -> dict[str, str]:
        """Objects that have none: name -> why."""
        return {obj.name: obj.reason for obj in self._objects.values() if obj.is_built and obj.index == NO_TABLE}

    def add_target(self, slot: int, pid: int) -> None:
        """Take a process in: its most needed tables are in the kernel when this returns.

        Raises:
            NoTargetError: It is gone.
        """
        self._targets[slot] = ProcessMappings(slot, pid)
        maps = read_maps(pid, executable_only=True)
        self._take(self._targets[slot], maps)
        exe_key = _executable_key(pid)
        self._finish_now([job for job in self._jobs if self._is_first(job.mapped.key, exe_key)])
        self._write(self._targets[slot])

    def finish(self, slot: int, key: ObjectKey) -> None:
        """The table of one object is in the kernel when this returns: every stack will begin in it."""
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
        """Look at a process's mappings anew: code was mapped."""
        target = self._targets.get(slot)
        if target is None:
            return
        with contextlib.suppress(NativeleakError):
            self._take(target, read_maps(target.pid, executable_only=True))
            self._write(target)

    def work(self) -> None:
        """Go on with what is to be built: take over what is ready, and begin the next. Never waits.

        What is in the cache is ready at once: all of it is taken in one go, within limits.
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
            self._on_note("unwind", f"{len(self._objects)} objects have their unwind tables, or have none")

    def _work_on(self, job: _Job) -> bool:
        """Begin what has not begun, and take it over where it is ready; whether it was."""
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
        """A signal interrupted code here: from now on its objects need tables that are good at any address."""
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
        """Give up what is being built."""
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
        """The kernel's own code in every process: small, and in no file."""
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
        """Open the file of a job and see where its code is; whether there is something to be built."""
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
            self._on_note("unwind", f"{obj.name} has no unwind information ({obj.reason}): its callers are guessed")
            return
        try:
            index = self._store.add_table(_marked(table))
        except OSError as error:
            obj.reason = str(error)
            self._on_note("unwind", f"the unwind table of {obj.name} found no room: {error}")
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
                f"{n_left_out:,} of {len(target.written):,} executable mappings of PID {target.pid} found no room: "
                "stacks end where they come to one of these",
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
    """``n`` of the mappings, in order of address: rather those of objects with few of them, and with tables."""
    if len(rows) <= n:
        return rows
    n_of_table = Counter(row[3] for row in rows)
    n_of_table[NO_TABLE] = len(rows)
    return sorted(sorted(rows, key=lambda row: n_of_table[row[3]])[:n])


def _loads(elf: ElfFile) -> tuple[tuple[int, int, int], ...]:
    return tuple((load.offset, load.vaddr, load.file_bytes) for load in elf.loads if load.flags & _PF_X)


def _marked(table: UnwindTable) -> bytes:
    """The words, with the flag that tells the kernel side that any address may be asked for."""
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
