"""Writes a recording while the trace runs.

The file appears with its tables and the facts known at the start. Each snapshot is one transaction with a rollback
journal: after a kill at any moment the file opens and holds everything up to the last snapshot. If the file can no
longer be written (disk full, I/O error), the recording continues in memory, so that the trace still ends in a report;
see ``RecordingWriter.failed``.

Caveat: a site that is missing from a snapshot keeps its totals. Its totals count as retired if the snapshot names it
among the dropped, or if its thread has ended and the retired totals of its target grew with that snapshot or the one
before.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nativeleak.errors import RecordingError
from nativeleak.model import Snapshot, Stack, TargetInfo, TraceInfo
from nativeleak.recording.batch import Batch, Known, encode
from nativeleak.recording.schema import APPLICATION_ID, FORMAT_VERSION, TABLES
from nativeleak.recording.values import trace_values

_MAX_WAITING: Final = 512
_BUSY_TIMEOUT_S: Final = 10.0
NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC
_NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.EXDEV, errno.ENOSYS)
_COMPANIONS: Final = ("-journal", "-wal", "-shm")
_GUARDS: Final = ("-journal", "-wal")
"""SQLite trusts files of these names, also those of other users, but ignores an empty one. In a folder where others may
create files we create them first, and keep them."""


class RecordingWriter:
    """Creates ``path`` (mode 0600) and appends snapshots to it.

    Args:
        path: The file to create; a symbolic link is refused.
        trace: Facts of the trace that are known at its start.
        targets: Targets that are known then.
        overwrite: Replace an existing regular file.

    Raises:
        RecordingError: The file exists, is a symbolic link, or cannot be created.
    """

    def __init__(
        self, path: Path, trace: TraceInfo, *, targets: Sequence[TargetInfo] = (), overwrite: bool = False
    ) -> None:
        self.path = path
        self._trace = trace
        self._known = Known(targets={target.slot: target for target in targets})
        self._stacks: dict[int, Stack] = {}
        self._events: list[tuple[float, str, str]] = []
        self._failed: str | None = None
        self._guards = _create(path, self._first_state(), overwrite=overwrite)
        try:
            self._db = _connect(str(path.absolute()))
            self._db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if self._guards else 'DELETE'}")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("SELECT count(*) FROM trace").fetchone()
        except sqlite3.Error as error:
            path.unlink(missing_ok=True)
            self._remove_guards()
            raise RecordingError(
                f"recording to {path} failed: {error}", "Choose a folder with free space: -o /var/tmp/trace.nlk"
            ) from error

    @property
    def failed(self) -> str | None:
        """Why and when writing the file failed, after which the recording continues in memory; None if it has not."""
        return self._failed

    def window_opened(self, started: float) -> None:
        """Say when the window opened, seconds since 1970 (UTC): on a busy machine long after the file was made."""
        self._trace = replace(self._trace, started=started)
        batch = encode(self._known, None, self._stacks.values(), self._events)
        batch.trace.update(started=trace_values(self._trace)["started"])
        self._write(batch, self._known.elapsed_s)

    def add_stacks(self, stacks: Iterable[Stack]) -> None:
        """Add stacks, new or renamed; they are written with the next snapshot or ``flush``, or when many are waiting.

        Ten thousand deep stacks take a hundred megabytes while they wait.
        """
        self._stacks.update((stack.key, stack) for stack in stacks)
        if len(self._stacks) >= _MAX_WAITING:
            self.flush()

    def add_event(self, elapsed_s: float, what: str, text: str) -> None:
        """Add a note about the trace, written with the next snapshot or ``flush``.

        Args:
            elapsed_s: Seconds since the trace began.
            what: One word for machines: ``"exec"``, ``"oom"``, ``"probes"``.
            text: One sentence for people.
        """
        self._events.append((elapsed_s, what, text))

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write everything added so far and the snapshot, in one transaction."""
        self._write(encode(self._known, snapshot, self._stacks.values(), self._events), snapshot.elapsed_s)

    def flush(self) -> None:
        """Write the stacks and events added so far."""
        if self._stacks or self._events:
            self._write(encode(self._known, None, self._stacks.values(), self._events), self._known.elapsed_s)

    def finish(self, reason: str, elapsed_s: float, targets: Sequence[TargetInfo] = ()) -> None:
        """Mark the recording as complete; a recording without this mark was cut off.

        Args:
            reason: Why the trace ended: ``"duration"``, ``"interrupted"``, ``"target ended"``, ...
            elapsed_s: Seconds since the trace began.
            targets: Targets whose end has become known after the last snapshot.
        """
        batch = encode(self._known, None, self._stacks.values(), self._events, targets)
        batch.trace.update(end_reason=reason, end_s=repr(elapsed_s))
        self._write(batch, elapsed_s)

    def serialize(self) -> bytes:
        """The database as bytes for ``Recording.from_bytes``, also if it is in memory."""
        return _serialized(self._db)

    def close(self) -> None:
        """Write what is left and close the file. Data kept in memory is gone after this."""
        try:
            self.flush()
        finally:
            self._db.close()
            self._remove_guards()

    def _remove_guards(self) -> None:
        for guard in self._guards:
            with contextlib.suppress(OSError):
                guard.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _first_state(self) -> bytes:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            self._begin_recording(db)
            return _serialized(db)

    def _begin_recording(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        for statement in filter(str.strip, TABLES.split(";")):
            db.execute(statement)
        db.executemany("INSERT INTO trace VALUES (?, ?)", trace_values(self._trace).items())
        for statement, rows in encode(Known(), None, (), (), list(self._known.targets.values())).statements():
            db.executemany(statement, rows)
        db.execute("COMMIT")

    def _write(self, batch: Batch, elapsed_s: float) -> None:
        try:
            _commit(self._db, batch)
        except sqlite3.Error as error:
            if self._failed is not None:
                raise
            batch = self._go_on_in_memory(error, elapsed_s, batch)
            _commit(self._db, batch)
        self._known.learn(batch)
        self._stacks.clear()
        self._events.clear()

    def _go_on_in_memory(self, error: sqlite3.Error, elapsed_s: float, batch: Batch) -> Batch:
        ended_s = self._known.elapsed_s
        self._failed = f"writing {self.path} failed {elapsed_s:.0f} s after the start: {error}"
        memory = sqlite3.connect(":memory:", isolation_level=None)
        file, self._db = self._db, memory
        try:
            file.backup(memory)
        except sqlite3.Error:
            # The file cannot even be read. Known rows are written again; names of older stacks are lost.
            memory.close()
            self._db = sqlite3.connect(":memory:", isolation_level=None)
            self._begin_recording(self._db)
            batch = self._known.everything_again(batch)
        with contextlib.suppress(sqlite3.Error):
            file.close()
        batch.trace.update(recording_error=self._failed, recording_error_s=repr(ended_s))
        return batch


def _commit(db: sqlite3.Connection, batch: Batch) -> None:
    try:
        db.execute("BEGIN IMMEDIATE")
        for statement, rows in batch.statements():
            db.executemany(statement, rows)
        db.execute("COMMIT")
    except BaseException:  # an interrupt too: the next snapshot must find no transaction under way
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)


def _serialized(db: sqlite3.Connection) -> bytes:
    if hasattr(db, "serialize"):
        return db.serialize()
    # SQLite before 3.36 has no serialize unless built for it (RHEL 9: 3.34).
    import tempfile  # rarely needed, and it brings OpenSSL into the recorder by way of random and hashlib

    with tempfile.TemporaryDirectory(prefix="nativeleak-") as folder:
        copy = Path(folder) / "recording"
        with contextlib.closing(sqlite3.connect(copy)) as target:
            db.backup(target)
        return copy.read_bytes()


def _create(path: Path, content: bytes, *, overwrite: bool) -> tuple[Path, ...]:
    """Create the file, and its guards if others may create files in its folder; returns the guards."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            raise RecordingError(f"recording to {path} failed: it is {kind}", "Name another file with -o.")
        if not overwrite:
            raise RecordingError(
                f"recording to {path} failed: the file exists", "Name another file with -o, or replace it with --force."
            )
        path.unlink()
    try:
        for suffix in _COMPANIONS:  # one left by an older recording of this name would be rolled into the new file
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        guards = guards_of(path)
        for guard in guards:
            os.close(os.open(guard, NEW_FILE, 0o600))
        if not _appear(path, content):
            fd = os.open(path, NEW_FILE, 0o600)
            try:
                _write_all(fd, content)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        return guards
    except OSError as error:
        raise RecordingError(
            f"recording to {path} failed: {error.strerror}", "Name a file in a folder you may write to with -o."
        ) from error


def guards_of(path: Path) -> tuple[Path, ...]:
    """Files that have to be there while the recording is written; none in a folder where no one else may create files.

    Raises:
        OSError: There is no such folder.
    """
    if not path.absolute().parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return ()
    return tuple(path.with_name(path.name + suffix) for suffix in _GUARDS)


def _appear(path: Path, content: bytes) -> bool:
    """Create a file that has its content from the moment it appears; False if this file system cannot."""
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno in _NO_TMPFILE:
                return False
            raise
        link = functools.partial(os.link, f"/proc/self/fd/{fd}", path.name, dst_dir_fd=folder, follow_symlinks=True)
        try:
            _write_all(fd, content, link)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True
    finally:
        os.close(folder)


def _write_all(fd: int, content: bytes, then: Callable[[], None] = lambda: None) -> None:
    """Write a file whole and close it, whatever happens."""
    try:
        while content:
            content = content[os.write(fd, content) :]
        os.fsync(fd)
        then()
    finally:
        os.close(fd)
