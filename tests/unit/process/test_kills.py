"""How a process that is no child ended: its status, the kernel's log, counters of its memory groups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nativeleak.process.kills import EndWatch, ProcessEnd

LINE = b"3,7,1000000,-;%s\n"
KILLED = (
    b"Memory cgroup out of memory: Killed process %d (%s) total-vm:127900kB, anon-rss:101888kB",
    b"Out of memory: Killed process %d, UID 679, (%s) total-vm:9kB, anon-rss:8kB",
    b"Out of memory: Killed process %d (%s), UID 1000, total-vm:9kB, anon-rss:8kB",
)


def ended(tmp_path: Path, lines: list[bytes], how: signal.Signals = signal.SIGKILL) -> ProcessEnd:
    """The message about a process that ended by a signal while these lines were logged."""
    os.mkfifo(tmp_path / "kmsg")
    log = os.open(tmp_path / "kmsg", os.O_RDWR | os.O_NONBLOCK)
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process,
        EndWatch(process.pid, "a) (b", tmp_path / "kmsg") as watch,
    ):
        process.send_signal(how)
        process.wait()
        for line in lines:
            os.write(log, LINE % (line.replace(b"%d", b"%d" % process.pid).replace(b"%s", b"a) (b")))
        found = watch.look(signal_number=how)
    os.close(log)
    return found


@pytest.mark.parametrize("line", KILLED)
def test_end_that_the_log_names_as_a_kill_is_one(tmp_path: Path, line: bytes) -> None:
    assert ended(tmp_path, [line]) == ProcessEnd(signal.SIGKILL, is_oom_kill=True)


def test_end_by_a_signal_that_the_log_does_not_name_is_no_oom_kill(tmp_path: Path) -> None:
    other = b"Out of memory: Killed process 1 (init) total-vm:9kB, anon-rss:8kB"
    assert ended(tmp_path, [other]) == ProcessEnd(signal.SIGKILL)


def test_end_by_another_signal_is_no_oom_kill_whatever_the_log_says(tmp_path: Path) -> None:
    assert ended(tmp_path, [KILLED[0]], signal.SIGTERM) == ProcessEnd(signal.SIGTERM)
