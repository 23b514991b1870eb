"""What the tests of the walk of stacks share."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from nativeleak.model import Frame, FrameSource, Stack
from support import Trace, eventually


def is_marked(stack: Stack) -> bool:
    """Whether a stack says of itself that it may be wrong or is not whole."""
    return stack.end != "root" or any(
        frame.found not in (FrameSource.EXACT, FrameSource.TAIL) for frame in stack.frames
    )


def returned_to(stack: Stack) -> tuple[Frame, ...]:
    """The frames that have a return address of their own: the target's own unwinder sees no others."""
    return tuple(frame for frame in stack.frames if frame.found is not FrameSource.TAIL)


def await_tables(trace: Trace) -> None:
    """Wait until all that was mapped when a trace began has its unwind table: until then some frames are guessed."""
    eventually(lambda: "have their unwind tables" in _notes(trace.recording), "unwind tables")


def copy_recording(recording: Path, copy: Path) -> None:
    """What a recording that grows holds at one moment."""
    with (
        closing(sqlite3.connect(f"file:{recording}?mode=ro", uri=True, timeout=30)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def await_snapshots(trace: Trace, n: int) -> None:
    """Wait until a trace under way has made so many more."""
    before = read_snapshot_count(trace.recording)
    eventually(
        lambda: trace.process.poll() is not None or read_snapshot_count(trace.recording) >= before + n, f"{n} snapshots"
    )


def _notes(recording: Path) -> str:
    with closing(sqlite3.connect(f"file:{recording}?mode=ro", uri=True)) as db:
        return "\n".join(text for (text,) in db.execute("SELECT text FROM events"))


def read_snapshot_count(recording: Path) -> int:
    """How many snapshots a recording has by now; it may be growing."""
    with closing(sqlite3.connect(f"file:{recording}?mode=ro", uri=True)) as db:
        n: int = db.execute("SELECT count(*) FROM snapshots").fetchone()[0]
        return n
