"""Runs self-checking programs under traces, by default and with ``--max-overhead off``, and shows which of them live.

Usage: ``python tests/tools/safety_cases.py FOLDER [CASE ...]``, as root. FOLDER has a folder for each case, with a
``build.sh``; each program writes READY, and ``OK n`` when all its blocks were whole. It is copied to a temporary folder
and built there. Without a name all cases run, some twenty minutes. Exit status: 0 where each program ended with OK and
status 0, and each trace with status 0 or with a refusal (3).

Scope: programs. Folders without one (closed descriptors, the current folder, damaged recordings) have tests of their
own: ``integration/test_streams.py``, ``integration/test_planted.py``, ``tests/fuzz``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.machine import PRELOADS
from support.waiting import PATIENCE, LineReader

TRACE = (sys.executable, "-m", "nativeleak", "trace")
_LIFE_S, _TRACED_S = 20.0 * min(2.0, PATIENCE), 4.0
_TRIES = 4
"""Each with twice the time: on a busy machine a trace may take longer to begin than the program lives."""
_MODES = ([], ["--max-overhead", "off"])
_TOO_LATE = ("before anything was recorded", "no such process", "exited already")


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a program.

    Attributes:
        folder: Of the case.
        command: Program and arguments; {life} and {middle} are its seconds and half of them.
        preload: A library that it runs with: a key of ``PRELOADS``.
        child: The traced process is the child that its stderr names.
        is_refused: Probes would end it: the trace ends with status 3.
        refused_from: Release of the kernel from which on they would; older ones may be traced.
        to_end: The trace goes on until the program ends.
        said: What the report's first lines must say.
        seen: What the program says on stderr, as a pattern.
    """

    folder: str
    command: str
    preload: str = ""
    child: bool = False
    is_refused: bool = False
    refused_from: tuple[int, int] = (0, 0)
    to_end: bool = False
    said: str = ""
    seen: str = ""

    @property
    def name(self) -> str:
        """Folder and arguments that tell it from its neighbours."""
        return " ".join([self.folder, self.preload, self.command.partition("{life}")[2]]).strip()


CASES = (
    Case("alternate-stack", "./altstack {life} high"),
    Case("alternate-stack", "./altstack {life} low"),
    Case("debugger", "./plain {life} 1 200000"),
    Case("debugger", "./plain {life} 64 -2000"),
    Case("fiber-in-allocator", "./fiber {life}"),
    Case("name-storm", "./names {life}"),
    Case("own-backtrace", "./bt {life}", seen=r"whole \d+ cut 0$"),
    Case("plugin-reload", "./reload {life} ./plugin.so {middle} 200"),
    Case("plugin-reload", "./reload {life} ./plugin.so 0 200"),
    Case("ptrace-sandbox", "./ptbox ./steady none {life}", child=True, is_refused=True),
    Case("ptrace-sandbox", "./steady eperm {life}"),
    Case("ptrace-sandbox", "./steady trap {life}"),
    Case("random-paths", "./paths {life}"),
    Case("same-memory-group", "./ram {life} 100"),
    Case("self-patching", "./detour {life} 0"),
    # Return probes have been system calls since then.
    Case("syscall-dispatch", "./sud {life}", is_refused=True, refused_from=(6, 11)),
    Case("text-replaced", "./remap {life} {middle}", to_end=True, said="gone from the target"),
    Case("throwing-new", "./quota {life} quota", seen=r"caught [1-9]"),
    Case("throwing-new", "./plain {life} as", preload="jemalloc", seen=r"caught [1-9]"),
    Case("throwing-new", "./plain {life} as", preload="tcmalloc", seen=r"caught [1-9]"),
    Case("throwing-new", "./plain {life} handler", preload="jemalloc", seen=r"caught [1-9]"),
    Case("throwing-new", "./plain {life} handler", preload="tcmalloc", seen=r"caught [1-9]"),
    Case("throwing-new", "./plain {life} nothrow", preload="tcmalloc", seen=r"caught [1-9]"),
    Case("throwing-new", "./plain {life} bad_array", seen=r"caught [1-9]"),
)


@dataclass(slots=True)
class Outcome:
    """How a program and its trace ended; ``faults`` is empty where all is right."""

    faults: list[str] = field(default_factory=list)
    was_too_late: bool = False
    report: str = ""


def _release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def run(case: Case, room: Path, options: list[str], life_s: float) -> Outcome:
    """Run a case once."""
    words = case.command.format(life=f"{life_s:.0f}", middle=f"{life_s / 2:.0f}").split()
    if PATIENCE > 1:
        # The programs run at full speed: on an emulated machine a trace beside them takes minutes to begin.
        words = ["nice", "-n", "19", *words]
    env = {**os.environ, **({"LD_PRELOAD": str(PRELOADS[case.preload])} if case.preload else {})}
    outcome, errors = Outcome(), room / "stderr"
    with (
        errors.open("w+b") as stderr,
        subprocess.Popen(words, cwd=room / case.folder, env=env, stdout=subprocess.PIPE, stderr=stderr) as program,
    ):
        assert program.stdout is not None
        lines = LineReader(program.stdout.fileno())
        first = lines.readline(60)
        pid = int(re.findall(rb"PID (\d+)", errors.read_bytes())[0]) if case.child else program.pid
        duration = [] if case.to_end else ["--duration", f"{_TRACED_S:.0f}s"]
        recording = room / "trace.nlk"
        traced = subprocess.run(
            [*TRACE, "-p", str(pid), "-o", str(recording), "--force", *duration, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=life_s * 4 + 120,
        )
        is_alive = program.poll() is None
        last = lines.readline(life_s * 4 + 60)
        status = program.wait(60)
        lines.close()
    said = errors.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
    outcome.report = traced.stdout
    outcome.was_too_late = any(text in traced.stderr for text in _TOO_LATE) and not case.is_refused
    if first != "READY" or status or not (last or "").startswith("OK "):
        outcome.faults.append(f"the program ended with status {status}: {first!r}, {last!r}, {said!r}")
    elif case.seen and not re.search(case.seen, said):
        outcome.faults.append(f"the program says {said!r}")
    right = {3} if case.is_refused else {0}
    if _release() < case.refused_from:
        right.add(0)
    if traced.returncode not in right:
        outcome.faults.append(f"the trace ended with status {traced.returncode}: {traced.stderr[-300:]!r}")
    elif not (is_alive or case.to_end or case.is_refused):
        outcome.was_too_late = True
    if case.said and case.said not in " ".join(traced.stdout.partition("Watched")[0].split()):
        outcome.faults.append(f"its first lines do not say {case.said!r}: {traced.stdout[:400]!r}")
    return outcome


def try_case(case: Case, room: Path, options: list[str], life_s: float) -> tuple[Outcome, float]:
    """Run a case, again where the trace began too late; a program that was harmed is never run again.

    Returns:
        Its outcome, and the life in seconds that was long enough for it: an emulated machine needs more.
    """
    for _ in range(_TRIES):
        outcome = run(case, room, options, life_s)
        if not outcome.was_too_late or any("the program ended" in fault for fault in outcome.faults):
            return outcome, life_s
        life_s *= 2
    outcome.faults.append("the trace began too late each time")
    return outcome, _LIFE_S


def main(source: Path, chosen: list[str]) -> int:
    """Build and run the chosen cases; returns the exit status."""
    n_faults, life_s = 0, _LIFE_S
    with tempfile.TemporaryDirectory(prefix="nativeleak-safety-") as name:
        room = Path(name)
        shutil.copytree(source, room, dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "u+w", str(room)], check=True)
        cases = [case for case in CASES if not chosen or case.folder in chosen]
        for folder in dict.fromkeys(case.folder for case in cases):
            subprocess.run(["sh", str(room / folder / "build.sh")], check=True)
        for case in cases:
            for options in _MODES:
                started_s = time.monotonic()
                outcome, life_s = try_case(case, room, options, min(life_s, 2 * _LIFE_S))
                n_faults += len(outcome.faults)
                word = "FAILED" if outcome.faults else "ok"
                mode = " ".join(options) or "default"
                print(f"{word:7} {case.name:42} {mode:20} {time.monotonic() - started_s:4.0f} s", flush=True)
                for fault in outcome.faults:
                    print(f"        {fault}", flush=True)
    return 1 if n_faults else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
