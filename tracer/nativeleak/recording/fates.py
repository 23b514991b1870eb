"""What looks before and after the trace found, kept in the recording.

Scope: the file is whole when this is added, in one transaction; a file that is cut off meanwhile is as it was before.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from nativeleak.errors import RecordingError
from nativeleak.model import BlockFate, HeapCensus, InUse, Look, SiteFate
from nativeleak.recording.columns import parse_number
from nativeleak.recording.opening import has_table
from nativeleak.recording.schema import LOOK_TABLES, to_signed, to_unsigned
from nativeleak.recording.writer import NEW_FILE, guards_of

_BUSY_TIMEOUT_S: Final = 10.0


def add_look(path: Path, look: Look, fates: Sequence[SiteFate] = ()) -> None:
    """Add what is known of one target's blocks to a finished recording, in place of what was known before.

    Args:
        path: The recording; a regular file that this user may write to.
        look: The look.
        fates: What it found.

    Raises:
        RecordingError: The file cannot be written.
    """
    with _adding(path) as db:
        db.execute("DELETE FROM fates WHERE slot = ?", (look.slot,))
        db.execute(
            "INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?)",
            (look.slot, look.after_s, look.certainty, _text(look.why_not), look.n_unlisted),
        )
        db.executemany("INSERT INTO fates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, fates))


def add_census(path: Path, censuses: Sequence[HeapCensus]) -> None:
    """Add walks of the targets' heaps to a finished recording.

    Raises:
        RecordingError: The file cannot be written.
    """
    rows = []
    for each in censuses:
        numbers = [*(each.before or InUse(0, 0, 0)), *(each.after or InUse(0, 0, 0))]
        rows.append((each.slot, *numbers, _text(each.why_not), each.before_at, each.after_at))
    with _adding(path) as db:
        db.executemany("INSERT OR REPLACE INTO census VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def read_census(db: sqlite3.Connection) -> tuple[HeapCensus, ...]:
    """Walks of the heaps by target; none in recordings without them.

    Raises:
        sqlite3.Error, ValueError: The recording is damaged.
    """
    if not has_table(db, "census"):
        return ()
    found = []
    for slot, *numbers, why_not, before_at, after_at in db.execute("SELECT * FROM census ORDER BY slot"):
        before, after = (None, None) if why_not else (InUse(*numbers[:3]), InUse(*numbers[3:]))
        found.append(HeapCensus(slot, before, after, why_not, before_at, after_at))
    return tuple(found)


def read_looks(db: sqlite3.Connection) -> tuple[Look, ...]:
    """Looks by target; none in recordings without them.

    Raises:
        sqlite3.Error, ValueError: The recording is damaged.
    """
    if not has_table(db, "looks"):
        return ()
    rows = db.execute("SELECT slot, after_s, certainty, why_not, n_unlisted FROM looks ORDER BY slot")
    return tuple(Look(*row) for row in rows)


def read_fates(db: sqlite3.Connection) -> list[SiteFate]:
    """What became of the blocks of each site; none in recordings without a look.

    Raises:
        sqlite3.Error, ValueError: The recording is damaged.
    """
    if not has_table(db, "fates"):
        return []
    rows = db.execute(
        "SELECT slot, thread_uid, stack_key, n_recorded, n_in_use, n_lost, lost_bytes, held_by FROM fates"
    )
    return [
        SiteFate(slot, thread_uid, to_unsigned(stack_key), BlockFate(n, n_in_use, n_lost, lost_bytes, _parse(held_by)))
        for slot, thread_uid, stack_key, n, n_in_use, n_lost, lost_bytes, held_by in rows
    ]


def _parse(text: str) -> tuple[tuple[str, int], ...]:
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("holders of blocks are nested") from error
    if not isinstance(values, list):
        raise ValueError("holders of blocks are no list")
    return tuple((_checked_text(name), parse_number(count)) for name, count in values)


def _checked_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("the name of a holder is no text")
    return value


def _row(site: SiteFate) -> tuple[int | str, ...]:
    fate = site.fate
    numbers = fate.n_recorded, fate.n_in_use, fate.n_lost, fate.lost_bytes
    return site.slot, site.thread_uid, to_signed(site.stack_key), *numbers, json.dumps(fate.held_by)


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _adding(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction that adds to the file, with its tables there."""
    try:
        with _opened(path) as db:
            db.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, LOOK_TABLES.split(";")):
                db.execute(statement)
            yield db
            db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordingError(f"adding to {path} failed: {why}", "Free space in its folder.") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file open for writing, with files in the places of journals where others may put theirs."""
    if path.is_symlink() or not path.is_file():
        raise RecordingError(f"adding to {path} failed: it is no regular file")
    with contextlib.ExitStack() as stack:
        guards = guards_of(path)
        for guard in guards:
            os.close(os.open(guard, NEW_FILE, 0o600))
            stack.callback(guard.unlink, missing_ok=True)
        db = sqlite3.connect(str(path.absolute()), isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        stack.enter_context(contextlib.closing(db))
        db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if guards else 'DELETE'}")
        db.execute("PRAGMA synchronous = FULL")
        yield db
