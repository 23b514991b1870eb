"""Running target programs: from READY through the work to the truth and the end.

Only processes that were started here are ended here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from support.machine import require, require_program
from support.waiting import ANSWER_TIMEOUT_S, START_TIMEOUT_S, LineReader, TargetError, patient
from targets import build, jdks

Truth = dict[str, Any]


MAX_LINES_SAID = 60
"""Of what a target said instead of an answer, shown at most."""


def target_path(name: str) -> Path:
    """Build a target where needed; skip where its compiler is missing.

    Raises:
        BuildError: A compiler that is there refuses the source.
    """
    require_program(build.TARGETS[name].compiler)
    return build.build_target(name)


class Target:
    """A target program, from READY to its end; a context manager.

    Args:
        name: Of a target in ``targets/build.py``; it is built where needed.
        arguments: Of the program; numbers are taken as text.
        env: Added to the environment, ``preload("jemalloc")`` for one.
        command: Run this instead: a program that speaks the protocol under another way of starting it.

    Attributes:
        pid: As the test sees it.
        process: The child; its stdin, stdout and stderr belong to this object.
    """

    def __init__(
        self,
        name: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        command: Sequence[str | Path] | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.name = name
        words = [str(word) for word in command or [target_path(name)]] + [str(word) for word in arguments]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        self._lines = LineReader(self.process.stdout.fileno())
        self.pid = self.process.pid
        try:
            self.wait_ready(timeout_s)
        except BaseException:
            self.close()
            raise

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for a READY: once at the start, and again after an exec."""
        line = self.readline(timeout_s)
        if not line.startswith("READY "):
            self._fail(f"said {line!r} instead of READY")

    def readline(self, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
        """Return the next line of its stdout.

        Raises:
            TargetError: It ended, or said nothing in time.
        """
        try:
            line = self._lines.readline(patient(timeout_s))
        except TimeoutError as error:
            self._fail(str(error))
        if line is None:
            self._fail("ended")
        return line

    def send(self, line: str) -> None:
        """Send one command; what it answers is read with ``readline`` or ``ask``."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail(f"ended before {line!r}")

    def ask(self, line: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Truth:
        """Send a command that is answered with the truth."""
        self.send(line)
        said = self.readline(timeout_s)
        try:
            answer: Truth = json.loads(said)
        except json.JSONDecodeError:
            self._fail(f"said {said + self._rest()!r} instead of an answer to {line!r}")
        return answer

    def go(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Truth:
        """Let it do its work; return its truth (``targets/truth.h`` says what is in it)."""
        return self.ask("go", timeout_s)

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait for its end; return its status, negative for a signal."""
        return self.process.wait(patient(timeout_s))

    def close(self) -> None:
        """End it: it sees the end of its stdin, and is killed only where that does not help. May be called again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(patient(5.0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._lines.close()
        self.process.stdout.close()
        self._errors.close()

    def _rest(self) -> str:
        """What else it says: a JVM that crashes says why on its stdout."""
        lines: list[str] = []
        with contextlib.suppress(TimeoutError):
            while len(lines) < MAX_LINES_SAID and (line := self._lines.readline(START_TIMEOUT_S)) is not None:
                lines.append(line)
        return "".join(f"\n{line}" for line in lines)

    def _fail(self, what: str) -> NoReturn:
        self._errors.seek(0)
        raise TargetError(f"target {self.name}: {what}; stderr: {self._errors.read().decode(errors='replace')!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def java_launcher(release: str) -> str:
    """The ``java`` of a JDK (``targets/jdks.py``); skips where it is missing."""
    found = jdks.find_launcher(release)
    require(found, f"JDK {release} is missing: run tests/targets/jdks.py")
    return str(found)


def leaker(*arguments: str, waits: bool = True, java: str = "java", options: Sequence[str] = ()) -> Target:
    """Start the Java service; ``targets/Leaker.java`` says what it does and which commands it takes.

    Args:
        arguments: ``NAME=VALUE``, for one ``chunk-pool=2``.
        waits: Allocate nothing before ``send("go")``, which has no answer; ``ask("until order-cache 101")`` has.
        java: The launcher of another JVM.
        options: Added to those of the JVM.
    """
    class_path = target_path("Leaker")
    require_program(java)
    command: list[str | Path] = [java, "-Xmx128m", "-XX:MaxDirectMemorySize=2g", *options, "-cp", class_path, "Leaker"]
    return Target("Leaker", *(["--wait"] if waits else []), *arguments, command=command)
