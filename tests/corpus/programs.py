"""Builds, starts and traces programs of the corpus, with the truth that they print."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.labels import Program
from targets import build

HERE = Path(__file__).resolve().parent
START_TIMEOUT_S = 30.0
TRACE_SLACK_S = 120.0
"""What attaching and reporting may take beside the window, on a busy machine."""

TARGETS = {"C": "corpus_c", "C++": "corpus_cxx", "Java": "corpus_java", "Rust": "corpus_rust", "Python": "corpus_ext"}


class CorpusError(Exception):
    """A program or its trace failed; the text carries what it said."""


def build_all(programs: Sequence[Program]) -> None:
    """Build what these programs need, before any of them is measured.

    Raises:
        targets.build.BuildError: A compiler is missing or fails.
    """
    for name in sorted({f"{TARGETS[program.language]}_{program.half}" for program in programs}):
        build.build_target(name)


def command(program: Program) -> list[str]:
    """The command line of a program that is built."""
    built = build.build_target(f"{TARGETS[program.language]}_{program.half}")
    tail = [program.scenario, str(program.pace)]
    if program.language == "Java":
        return ["java", "-Xmx128m", "-cp", str(built), program.half.capitalize(), *tail]
    if program.language == "Python":
        return [sys.executable, str(HERE / "service.py"), *tail]
    return [str(built), *tail]


@dataclass(frozen=True, slots=True)
class Truth:
    """One line of truth: what each leaking function has kept.

    Attributes:
        at_s: Seconds since the epoch.
        kept: Function -> bytes, blocks.
    """

    at_s: float
    kept: dict[str, tuple[int, int]]


def parse_truth(line: str) -> Truth | None:
    """``T <ms> <function>=<bytes>/<blocks> ...``; None for any other line."""
    words = line.split()
    if len(words) < 2 or words[0] != "T":
        return None
    kept = {}
    for word in words[2:]:
        function, _, sums = word.rpartition("=")
        n_bytes, _, blocks = sums.partition("/")
        kept[function] = (int(n_bytes), int(blocks))
    return Truth(int(words[1]) / 1000, kept)


def rates(truths: Sequence[Truth], from_s: float, to_s: float) -> dict[str, float]:
    """Function -> bytes a second that it kept, between two moments (seconds since the epoch)."""
    inside = [truth for truth in truths if from_s <= truth.at_s <= to_s]
    if len(inside) < 2:
        return {}
    first, last = inside[0], inside[-1]
    spent = last.at_s - first.at_s
    return {name: (kept[0] - first.kept.get(name, (0, 0))[0]) / spent for name, kept in last.kept.items()}


@dataclass(slots=True)
class Running:
    """A program at work: its process, and the truth it has told."""

    process: subprocess.Popen[str]
    truths: list[Truth] = field(default_factory=list)
    _ready: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Read its lines to the end; in a thread of its own."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("READY "):
                self._ready.set()
            elif (truth := parse_truth(line)) is not None:
                self.truths.append(truth)

    def wait_ready(self) -> None:
        """Wait for its READY.

        Raises:
            CorpusError: It did not come.
        """
        if not self._ready.wait(START_TIMEOUT_S):
            raise CorpusError(f"process {self.process.pid}: no READY")


@contextlib.contextmanager
def started(program: Program) -> Iterator[Running]:
    """Run a program; it is ended with the context."""
    environment = {**os.environ, "PYTHONPATH": str(build.BIN / "corpus")}
    with subprocess.Popen(command(program), stdout=subprocess.PIPE, text=True, env=environment) as process:
        running = Running(process)
        reader = threading.Thread(target=running.read, daemon=True)
        reader.start()
        try:
            running.wait_ready()
            yield running
        finally:
            process.kill()
            reader.join()


def trace(pid: int, seconds: float, recording: Path) -> dict[str, Any]:
    """Trace a process with default options; return its JSON report.

    Raises:
        CorpusError: The trace failed.
    """
    options = ["-p", str(pid), "--duration", f"{seconds:g}s", "--quiet", "-o", str(recording)]
    return _run("trace", *options, timeout_s=seconds + TRACE_SLACK_S)


def report(recording: Path) -> dict[str, Any]:
    """The JSON report of a recording, made anew.

    Raises:
        CorpusError: It cannot be read.
    """
    return _run("report", str(recording), timeout_s=TRACE_SLACK_S)


def _run(*words: str, timeout_s: float) -> dict[str, Any]:
    command_line = [sys.executable, "-m", "nativeleak", *words, "--format", "json"]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode:
        raise CorpusError(f"{words[0]}: status {done.returncode}: {done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said
