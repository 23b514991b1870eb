"""The demonstration: a leaking program of our own, traced as any other, and what it says itself for comparison.

The program begins to leak once the trace has recorded its first snapshot, and is done before the last one, so that what
it says it holds is what the report must show, to the byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nativeleak import children
from nativeleak.closing import Closing
from nativeleak.demo import program
from nativeleak.errors import EXIT_FAILURE, NativeleakError
from nativeleak.units import format_bytes, format_duration

N_SNAPSHOTS: Final = 10
_WORK_SHARE: Final = 0.8
"""Of the window; a tenth passes before the first snapshot, the rest is for a busy machine."""
_MIN_INTERVAL_S: Final = 0.1
_POLL_S: Final = 0.05
_END_TIMEOUT_S: Final = 5.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asks for.

    Attributes:
        duration_s: How long to trace.
        format_name: Of the report.
        output: Where the recording stays; None: it goes with the demonstration.
    """

    duration_s: float = 10.0
    format_name: str = "text"
    output: Path | None = None


class LeakingProgram(Closing):
    """The child that leaks; a context manager: it ends with it, and with this process however that ends."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C on the terminal is for the tracer.
        self._process = children.start(
            children.python_script(program.__file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def begin(self, work_s: float) -> None:
        """Let its threads work for so many seconds."""
        self._send(f"go {work_s}")

    def truth(self) -> dict[str, Any]:
        """End its work; what its threads hold."""
        self._send("truth")
        return self._answer()

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise NativeleakError("the demonstration failed: the leaking program has ended") from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise NativeleakError("the demonstration failed: the leaking program has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def run_demo(options: DemoOptions, say: Callable[[str], None]) -> int:
    """Trace the leaking program; the report goes to stdout.

    Args:
        options: What to do.
        say: Gets each line for the user.

    Returns:
        The exit status of ``trace``.

    Raises:
        NativeleakError: The leaking program did not do its part.
    """
    say(announcement(options.duration_s))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nativeleak-demo-")))
        recording = options.output or folder / "demo.nlk"
        program = stack.enter_context(LeakingProgram())
        process = children.start(_trace_command(options, program.pid, recording), start_new_session=True)
        with _signals_forwarded(process):
            if _wait_for_snapshot(recording, process):
                program.begin(_WORK_SHARE * options.duration_s)
            status = process.wait()
        if status != 0:
            return status if status > 0 else EXIT_FAILURE
        for line in comparison(program.truth()):
            say(line)
        if options.output is not None:
            say(f"the recording is kept: nativeleak report {options.output}")
    return 0


def announcement(duration_s: float) -> str:
    """What is going to happen, in one line."""
    habits = ", ".join(f"{habit.name} {_habit_text(habit)}" for habit in program.HABITS)
    return f"demo: tracing a program of our own for {format_duration(duration_s)}; its threads: {habits}"


def comparison(truth: dict[str, Any]) -> list[str]:
    """What the program says of itself, as lines to hold against the report."""
    lines = ["demo: what the program says itself; the report should show the same:"]
    for thread in truth["threads"]:
        n_bytes, count = thread["outstanding_bytes"], thread["outstanding_count"]
        allocated = f"{thread['allocated_count']:,} x {format_bytes(thread['block_bytes'])}"
        if count:
            held = f"holds {format_bytes(n_bytes)} ({n_bytes:,} bytes of {thread['kind']}: {allocated})"
        elif thread["allocated_count"]:
            held = f"holds nothing: allocated {allocated} and freed them all"
        else:
            held = "holds nothing"
        lines.append(f"demo:   thread {thread['thread']:{_name_width()}} {held}")
    if not truth["complete"]:
        lines.append("demo: the trace ended before the threads did: they may hold a little more than was traced")
    return lines


def _habit_text(habit: program.Habit) -> str:
    verb = "leaks" if habit.leaks else "allocates and frees"
    what = "mappings" if habit.kind == "map" else "blocks"
    return f"{verb} {what} of {format_bytes(habit.block_bytes)}"


def _name_width() -> int:
    return max(len(habit.name) for habit in program.HABITS)


def _trace_command(options: DemoOptions, pid: int, recording: Path) -> Sequence[str]:
    interval_s = max(_MIN_INTERVAL_S, options.duration_s / N_SNAPSHOTS)
    command = children.python_module("nativeleak", "trace", "-p", str(pid), "-o", str(recording.absolute()))
    command += ["--duration", f"{options.duration_s:f}", "--interval", f"{interval_s:f}"]
    return [*command, "--format", options.format_name]


@contextlib.contextmanager
def _signals_forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """What would end us ends the trace instead, in its report; a second one ends it at once."""

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number) if process.returncode is None else None

    old = {number: signal.signal(number, forward) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_for_snapshot(recording: Path, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the trace has its first snapshot: the window is open. False where the trace ends before."""
    while process.poll() is None:
        if _count_snapshots(recording):
            return True
        time.sleep(_POLL_S)
    return False


def _count_snapshots(recording: Path) -> int:
    if not recording.exists():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(f"{recording.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM snapshots").fetchone()[0])
    except sqlite3.Error:
        return 0  # being created, or being written to
