"""Running the tool: one command to its end, or a trace in the background with its report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.machine import as_nobody
from support.target import Target
from support.waiting import ANSWER_TIMEOUT_S, COMMAND_TIMEOUT_S, START_TIMEOUT_S, LineReader, TargetError, patient

Report = dict[str, Any]


def nativeleak(
    *arguments: object,
    timeout_s: float = COMMAND_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; the status is for the test to look at."""
    return subprocess.run(
        [sys.executable, "-m", "nativeleak", *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(timeout_s),
        input=stdin,
        env={**os.environ, **(env or {})},
    )


class Trace:
    """``nativeleak trace`` of one or more processes in the background; a context manager that is attached once entered.

    Args:
        pids: What to trace: targets or process ids.
        options: More options of ``trace``. Without a ``--max-overhead`` among them it is off: targets that do nothing
            but allocate would be sampled, and most tests are of exact figures.
        output: Where the recording goes, for tests that keep it; without one it goes with the trace.
        attaches: False where the trace is to fail: nothing is waited for then; see ``wait``.
        capabilities: Trace as a user who has these alone; None: as the tests are run.
        within: A command that the tracer is run by, which becomes it by exec.

    Attributes:
        process: The tracer.
        recording: Path of the recording.
        stderr: What it has said so far, each line with its newline; whole after ``stop`` or ``wait``.
        stdout: Its report as text; "" before its end.
    """

    def __init__(
        self,
        *pids: Target | int,
        options: Iterable[object] = (),
        output: Path | None = None,
        attaches: bool = True,
        env: Mapping[str, str] | None = None,
        timeout_s: float = START_TIMEOUT_S,
        capabilities: Sequence[str] | None = None,
        within: Sequence[str] = (),
        program: Sequence[str] = ("-m", "nativeleak"),
    ) -> None:
        self.stderr = ""
        self.stdout = ""
        self._room = tempfile.TemporaryDirectory(prefix="nativeleak-test-")
        self.recording = output or Path(self._room.name) / "trace.nlk"
        interpreter, environment = [sys.executable], dict(os.environ)
        if capabilities is not None:
            interpreter, environment = as_nobody(*capabilities)
            Path(self._room.name).chmod(0o777)
        words = [*interpreter, *program, "trace", "--format", "json", "-o", str(self.recording)]
        options = [str(option) for option in options]
        if "--max-overhead" not in options:
            words += ["--max-overhead", "off"]
        for pid in pids:
            words += ["-p", str(pid.pid if isinstance(pid, Target) else pid)]
        # A file, not a pipe: a report of a million sites must not wait for its reader.
        self._report = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self.process = subprocess.Popen(
            [*within, *words, *options],
            stdin=subprocess.DEVNULL,
            stdout=self._report,
            stderr=subprocess.PIPE,
            env={**environment, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd="/" if capabilities is not None else None,
        )
        assert self.process.stderr is not None
        self._lines = LineReader(self.process.stderr.fileno())
        if attaches:
            try:
                self.wait_attached(timeout_s)
            except BaseException:
                self.close()
                raise

    def wait_attached(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it traces its targets.

        Raises:
            TargetError: It does not, or has ended.
        """
        self._wait_until(lambda line: line.startswith("nativeleak: tracing"), "line about its targets", timeout_s)

    def wait_line(self, text: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until it has said a line with this text.

        Raises:
            TargetError: It has not, or has ended.
        """
        self._wait_until(lambda line: text in line, repr(text), timeout_s)

    def _wait_until(self, is_it: Callable[[str], bool], what: str, timeout_s: float) -> None:
        timeout_s = patient(timeout_s)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.readline(max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise TargetError(f"trace: no {what} in {timeout_s:.0f} s; stderr: {self.stderr!r}") from error
            if line is None:
                raise TargetError(f"trace: ended without {what}; stderr: {self.stderr!r}")
            self.stderr += line + "\n"
            if is_it(line):
                return

    def said(self) -> str:
        """All that it has said by now, its end not waited for."""
        with contextlib.suppress(TimeoutError):
            while (line := self._lines.readline(0.01)) is not None:
                self.stderr += line + "\n"
        return self.stderr

    def stop(self, timeout_s: float = ANSWER_TIMEOUT_S, signum: signal.Signals = signal.SIGINT) -> Report:
        """End the trace as Ctrl-C does, and return its report."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Report:
        """Wait until the trace ends by itself, by its duration or with its target; return its report.

        Raises:
            TargetError: It failed (``process.returncode`` says how), or did not end.
        """
        self.wait_end(timeout_s)
        if self.process.returncode != 0:
            raise TargetError(f"trace: status {self.process.returncode}; stderr: {self.stderr!r}")
        report: Report = json.loads(self.stdout)
        return report

    def all_sites(self) -> Report:
        """The report once more, now with the sites of which nothing is outstanding; after the end, before ``close``."""
        done = nativeleak("report", self.recording, "--format", "json", "--metric", "allocated")
        if done.returncode != 0:
            raise TargetError(f"report: status {done.returncode}; stderr: {done.stderr!r}")
        report: Report = json.loads(done.stdout)
        return report

    def wait_end(self, timeout_s: float = ANSWER_TIMEOUT_S) -> int:
        """Wait for its end, whatever it is; return its status. ``stdout`` and ``stderr`` are whole then."""
        timeout_s = patient(timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            while (line := self._lines.readline(max(0.0, deadline - time.monotonic()))) is not None:
                self.stderr += line + "\n"
            status = self.process.wait(max(0.1, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"trace: did not end in {timeout_s:.0f} s; stderr: {self.stderr!r}") from error
        self._report.seek(0)
        self.stdout = self._report.read().decode()
        return status

    def close(self) -> None:
        """End the tracer, by force where it does not end; may be called again."""
        assert self.process.stderr is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._lines.close()
        self.process.stderr.close()
        self._report.close()
        self._room.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
