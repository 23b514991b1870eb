"""Child processes of a target, on real ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nativeleak.model import TargetInfo
from nativeleak.session.offspring import Offspring

_MIB = 1 << 20
_CHILD = """
import os, sys
kept = []
print(os.getpid(), flush=True)
for line in iter(sys.stdin.readline, "end\\n"):
    kept.append(b"x" * (64 << 20))
    print("kept", flush=True)
"""
_MASTER = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {_CHILD!r}])
print("ended", flush=True)
sys.stdin.readline()
"""


class _Master:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid
        self.child = int(self.answer())

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def master() -> Iterator[_Master]:
    command = [sys.executable, "-c", _MASTER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield _Master(process)


def test_offspring_of_a_master_has_their_growth_and_outlives_them() -> None:
    with master() as parent:
        offspring = Offspring([parent.pid])
        offspring.look()
        assert [parent.ask("more") for _ in range(2)] == ["kept", "kept"]
        offspring.look()
        (grown,) = offspring.of(parent.pid)
        assert (grown.pid, grown.is_alive, grown.holds_as_much) == (parent.child, True, True)
        assert 128 * _MIB <= grown.growth_bytes < 140 * _MIB
        start = f"PID {parent.pid} has 1 child that holds as much memory or more: {parent.child} ("
        assert offspring.warning(parent.pid).startswith(start)
        assert parent.ask("end") == "ended"
        offspring.look()
        (ended,) = offspring.of(parent.pid)
        assert (ended.pid, ended.is_alive, ended.growth_bytes) == (parent.child, False, grown.growth_bytes)
        assert offspring.added_to([TargetInfo(0, parent.pid, "m", "")])[0].children == (ended,)
        assert offspring.warning(parent.pid) == ""


def test_offspring_that_is_traced_too_is_left_out() -> None:
    with master() as parent:
        offspring = Offspring([parent.pid, parent.child])
        offspring.look()
        assert offspring.of(parent.pid) == offspring.of(parent.child) == ()
        assert parent.ask("end") == "ended"
