"""The demonstration: traces a leaking program of our own, then prints its own totals to compare with the report.

The program starts to leak after the trace has recorded its first snapshot, and stops before the last one. So the report
must show the program's own totals to the byte.
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
"""Share of the trace in which the program works: a tenth passes before the first snapshot, a tenth is reserve."""
_MIN_INTERVAL_S: Final = 0.1
_POLL_S: Final = 0.05
_END_TIMEOUT_S: Final = 5.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of the demonstration.

    Attributes:
        duration_s: Length of the trace.
        format_name: Format of the report.
        output: File of the recording; None: it is deleted at the end.
    """

    duration_s: float = 10.0
    format_name: str = "text"
    output: Path | None = None


class LeakingProgram(Closing):
    """The leaking child process, as a context manager. It ends with the context, and with this process."""

    def __init__(self) -> None:
        # In a session of its own Ctrl-C on the terminal reaches only the tracer.
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
        """Let its threads work for this time."""
        self._send(f"go {work_s}")

    def truth(self) -> dict[str, Any]:
        """End its work; returns the totals of its threads."""
        self._send("truth")
        return self._answer()

    def close(self) -> None:
        """End the program."""
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
            raise NativeleakError("the demonstration failed: the leaking program exited") from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise NativeleakError("the demonstration failed: the leaking program exited")
        answer: dict[str, Any] = json.loads(line)
        return answer


def run_demo(options: DemoOptions, say: Callable[[str], None]) -> int:
    """Trace the leaking program; the report goes to stdout.

    Args:
        options: Options of the demonstration.
        say: Receives each line for the user.

    Returns:
        The exit status of ``trace``.

    Raises:
        NativeleakError: The leaking program exited too early.
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
            say(f"demo: the recording is in {options.output}; nativeleak report reads it")
    return 0


def announcement(duration_s: float) -> str:
    """One line that says what will happen."""
    habits = ", ".join(f"{habit.name} {_habit_text(habit)}" for habit in program.HABITS)
    return f"demo: tracing a program of our own for {format_duration(duration_s)}; its threads: {habits}"


def comparison(truth: dict[str, Any]) -> list[str]:
    """The program's own totals, as lines to compare with the report."""
    lines = ["demo: the program's own totals; the report should show the same:"]
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
        lines.append("demo: the trace ended before the threads, so they may hold a little more than the report shows")
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
    """Forward signals to the trace: the first ends it with its report, a second ends it at once."""

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
    """Wait for the first snapshot of the trace. False if the trace ends before it."""
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
