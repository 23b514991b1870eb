"""Opens a recording's database, and explains why one cannot be opened."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import quote

from nativeleak import __version__
from nativeleak.errors import RecordingError
from nativeleak.process.shortage import own_memory_limit
from nativeleak.recording.schema import APPLICATION_ID, FORMAT_VERSION, SQLITE_MAGIC

_BUSY_TIMEOUT_S: Final = 10.0
_MAX_VALUE_BYTES: Final = 128 << 20
"""Limit of one value in a recording; the samples of a million sites take 44 MB."""
# Views, triggers, virtual tables and generated columns are programs that run when the tables are read; we write none.
_PROGRAMS: Final = """
SELECT count(*) FROM sqlite_master AS made, pragma_table_xinfo(made.name) AS place
WHERE made.type NOT IN ('table', 'index') OR made.rootpage IS NULL OR made.rootpage = 0 OR place.hidden <> 0
"""
_ENDED: Final = "SELECT 1 FROM trace WHERE name = 'end_reason'"
_UNREAD: Final = re.compile("get (the )?page")
"""In the verdict of a check: a page could not be read, in most cases because memory is short."""
_WRITTEN_BY: Final = "SELECT value FROM trace WHERE name = 'version'"


def connect_file(path: Path) -> sqlite3.Connection:
    """A checked read-only connection to the recording at ``path``.

    Raises:
        RecordingError: The file is no readable recording.
        OSError: The file cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise RecordingError(
            f"reading {path} failed: no such file", "Name a recording made with: nativeleak trace -p PID -o FILE.nlk"
        ) from error
    if stat.S_ISDIR(mode):
        raise _not_a_recording(str(path), "it is a folder")
    resolved = path.resolve()
    _refuse_strangers(path, resolved)
    if not stat.S_ISREG(mode) or not resolved.exists():  # a pipe, or a deleted file behind /proc/self/fd
        return connect_bytes(path.read_bytes(), str(path))
    journal = resolved.with_name(resolved.name + "-journal")
    cut_off = journal.exists() and journal.stat().st_size > 0
    with path.open("rb") as file:
        header = file.read(len(SQLITE_MAGIC))
    if not cut_off and header != SQLITE_MAGIC:
        raise _not_a_recording(str(path), "the file is empty" if not header else "it is no SQLite file")
    db = checked(_connect_recovered(resolved, journal), str(path))
    with contextlib.suppress(sqlite3.Error):  # the reader finds errors in the table
        if db.execute(_ENDED).fetchone():
            return db
    return _of_now(db, str(path))


def _of_now(db: sqlite3.Connection, name: str) -> sqlite3.Connection:
    """A copy of an unfinished recording, as it is at this moment.

    Such a recording may be growing. The reader reads its tables one after another: they would be of different moments.

    Raises:
        RecordingError: The recording cannot be read.
    """
    with contextlib.closing(db):
        copy = sqlite3.connect("", isolation_level=None)  # in a temporary file of SQLite if memory is not enough
        try:
            db.backup(copy)
        except sqlite3.Error as error:
            copy.close()
            raise damaged(name, error) from error
    return checked(copy, name)


def _refuse_strangers(path: Path, resolved: Path) -> None:
    """Refuse a journal beside the recording that another user may have made: SQLite would apply it.

    Raises:
        RecordingError: A journal belongs to another user than the recording, or is no regular file.
    """
    owner = path.stat().st_uid
    for suffix in ("-journal", "-wal", "-shm"):
        beside = resolved.with_name(resolved.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            facts = beside.lstat()
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in (owner, 0):
                raise RecordingError(
                    f"reading {path} failed: {beside.name} beside it belongs to another user",
                    "Remove that file, or copy the recording alone to a folder of your own.",
                )


def connect_bytes(data: bytes, name: str) -> sqlite3.Connection:
    """A checked connection to a recording in memory.

    Raises:
        RecordingError: The bytes are no readable recording.
    """
    if not data.startswith(SQLITE_MAGIC):
        raise _not_a_recording(name, "it is no SQLite file")
    if hasattr(sqlite3.Connection, "deserialize"):
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.deserialize(data)
        return checked(db, name)
    with tempfile.TemporaryDirectory(prefix="nativeleak-") as folder:
        copy = Path(folder) / "recording"
        copy.write_bytes(data)
        return checked(_into_memory(copy), name)


def checked(db: sqlite3.Connection, name: str) -> sqlite3.Connection:
    """The connection, after a check that it is an intact recording of a known format; closed otherwise.

    Raises:
        RecordingError: The check failed.
    """
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(db.close)
            db.execute("PRAGMA trusted_schema = OFF")
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
            if not db.execute("PRAGMA page_count").fetchone()[0]:
                raise _not_a_recording(name, "the file is empty")
            if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise _not_a_recording(name, "it is a SQLite file of another program")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT_VERSION:
                raise _too_new(db, name, version)
            if db.execute(_PROGRAMS).fetchone()[0]:
                raise damaged(name, "it holds more than tables")
            if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise damaged(name, MemoryError(verdict) if _UNREAD.search(verdict) else verdict)
            db.execute("PRAGMA query_only = ON")
            stack.pop_all()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RecordingError(
                f"reading {name} failed: another program keeps it locked", "Try again, or report from a copy of it."
            ) from error
        raise damaged(name, error) from error
    # ValueError: SQLite's own message quotes bytes that are no text; MemoryError: a damaged length.
    except (sqlite3.Error, ValueError, MemoryError) as error:
        raise damaged(name, error) from error
    return db


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """Whether a recording has a table: an older recording lacks tables that were added later."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def damaged(name: str, why: object) -> RecordingError:
    """The error for a damaged recording, or for one that does not fit into a limit of this process's memory."""
    limit = own_memory_limit() if isinstance(why, MemoryError) else None
    if limit is not None:
        lack, remedy = limit
        return RecordingError(
            f"reading {name} failed: {lack}", f"{remedy}\nor make the report elsewhere: nativeleak report {name}"
        )
    return RecordingError(
        f"reading {name} failed: the recording is damaged: {why}",
        "Was it copied while it was written, or without the -journal file beside it? Copy it again, or trace again.",
    )


def _connect_recovered(path: Path, journal: Path) -> sqlite3.Connection:
    """A connection, after SQLite has rolled back an unfinished transaction of a killed writer."""
    for mode in ("ro", "rw"):  # a hot journal cannot be rolled back through a read-only connection
        db = sqlite3.connect(_uri(path, mode), uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            db.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                db.close()
                continue
        except sqlite3.DatabaseError:
            pass
        return db  # ``checked`` finds any other error
    with tempfile.TemporaryDirectory(prefix="nativeleak-") as folder:
        copy = Path(folder) / "recording"
        shutil.copyfile(path, copy)
        if journal.exists():
            shutil.copyfile(journal, copy.with_name(copy.name + "-journal"))
        return _into_memory(copy)


def _into_memory(path: Path) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.backup(memory)
    except sqlite3.Error as error:
        memory.close()
        raise damaged(str(path), error) from error
    return memory


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path))}?mode={mode}"


def _not_a_recording(name: str, why: str) -> RecordingError:
    return RecordingError(
        f"reading {name} failed: not a nativeleak recording: {why}",
        "Name a file made with: nativeleak trace -p PID -o FILE.nlk",
    )


def _too_new(db: sqlite3.Connection, name: str, version: int) -> RecordingError:
    writer = "a newer nativeleak"
    with contextlib.suppress(sqlite3.Error, TypeError):
        writer = f"nativeleak {db.execute(_WRITTEN_BY).fetchone()[0]}"
    return RecordingError(
        f"reading {name} failed: {writer} wrote it in format {version}, nativeleak {__version__} reads up to format "
        f"{FORMAT_VERSION}",
        "Install that version of nativeleak or a newer one to report from it.",
    )
