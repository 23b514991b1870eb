"""Running cases from the field (``targets/field``) under a trace with default options, with what they know."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from corpus.score import is_named
from support.machine import require
from support.trace import Report, Trace
from support.waiting import START_TIMEOUT_S, LineReader, TargetError
from targets import build

DEFAULT_OVERHEAD = "5%"
"""``--max-overhead`` as it is without the option, which ``Trace`` would turn off."""


@dataclass(frozen=True, slots=True)
class Case:
    """One program of ``targets/field`` and how it is run.

    Attributes:
        folder: Below ``targets/field``; the built program is in a folder of this name.
        command: Makes the command line, given the folder of the built program; run in that folder.
        lines: Of truth that it must have printed before the trace starts.
        programs: That it needs beside its compiler.
    """

    folder: str
    command: Callable[[Path], Sequence[str | Path]]
    seconds: float = 12.0
    lines: int = 4
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(slots=True)
class Told:
    """What a program said, and when: seconds since the epoch, line."""

    lines: list[tuple[float, str]] = field(default_factory=list)

    def between(self, name: str, moments: tuple[float, float]) -> tuple[float, float]:
        """The least and the most that a number can have grown between two moments, by the lines around them.

        Args:
            name: ``NAME=<n>``, ``NAME=<n>/<blocks>`` or ``NAME <n>`` in its lines; ``NAME/`` is the blocks.
            moments: Of the trace's start and end.
        """
        pattern = re.compile(rf"\b{name[:-1]}=\d+/(\d+)" if name.endswith("/") else rf"\b{name}[ =](\d+)")
        known = [(at, float(found[1])) for at, line in self.lines if (found := pattern.search(line))]
        (start, end), slack = moments, 1.0
        return (
            self._at(known, end - slack) - self._at(known, start + slack),
            self._at(known, end + slack) - self._at(known, start - slack),
        )

    @staticmethod
    def _at(known: list[tuple[float, float]], moment: float) -> float:
        before = [value for at, value in known if at <= moment]
        return before[-1] if before else known[0][1]


@dataclass(frozen=True, slots=True)
class Run:
    """The report of one case, beside what the program said."""

    report: Report
    told: Told

    @property
    def moments(self) -> tuple[float, float]:
        """Start and end of the trace, in seconds since the epoch."""
        started = datetime.fromisoformat(self.report["window"]["started"]).timestamp()
        return started, started + float(self.report["window"]["duration_s"])

    def grew(self, name: str) -> tuple[float, float]:
        """The least and the most that a number of the program's can have grown during the trace."""
        return self.told.between(name, self.moments)

    def suspects(self, *labels: str) -> list[dict[str, Any]]:
        """The suspects whose name or caller is one of these functions."""
        return [suspect for suspect in self.report["suspects"] if names(suspect, *labels)]

    def outline(self) -> list[str]:
        """The suspects in a line each, for messages."""
        return [
            f"{suspect['name']} < {suspect['called_by']} {suspect['kind']} {suspect['what']} "
            f"{suspect['outstanding_bytes']:,} B {suspect['growth']['verdict']}"
            for suspect in self.report["suspects"]
        ]


def names(suspect: dict[str, Any], *labels: str) -> bool:
    """Tell whether the name or the caller of a suspect is one of these functions."""
    return any(is_named(suspect[key], label) for key in ("name", "called_by") for label in labels)


def run_case(case: Case, recording: Path | None = None) -> Run:
    """Build, start and trace a case; skip where what it needs is missing.

    Args:
        case: Which.
        recording: Where the recording goes; None: it goes with the trace.

    Raises:
        TargetError: The program or the trace failed.
        targets.build.BuildError: A compiler refuses its source.
    """
    missing = [name for name in case.programs if shutil.which(name) is None]
    missing += [name for name in case.files if not Path(name).exists()]
    require(not missing, f"{case.folder} needs {' '.join(missing)}")
    room = build.build_target(f"field_{case.folder}")
    words = [str(word) for word in case.command(room)]
    told = Told()
    with subprocess.Popen(words, cwd=room, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines = LineReader(process.stdout.fileno())
        try:
            for _ in range(case.lines):
                _read(lines, told)
            options = ["--max-overhead", DEFAULT_OVERHEAD, "--duration", f"{case.seconds:g}s"]
            ended = threading.Event()
            reader = threading.Thread(target=_read_all, args=(lines, told, ended))
            reader.start()
            try:
                with Trace(process.pid, options=options, output=recording) as trace:
                    report = trace.wait()
            finally:
                ended.set()
                reader.join()
        finally:
            process.kill()
            lines.close()
    return Run(report, told)


def _read(lines: LineReader, told: Told) -> None:
    line = lines.readline(START_TIMEOUT_S)
    if line is None:
        raise TargetError(f"the program ended after {told.lines}")
    told.lines.append((time.time(), line))


def _read_all(lines: LineReader, told: Told, ended: threading.Event) -> None:
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            line = lines.readline(1.0)
            if line is None:
                return
            told.lines.append((time.time(), line))
