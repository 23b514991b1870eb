"""Whether one process was killed, from a log that grows and from what is not there."""

from __future__ import annotations

import os
from pathlib import Path

from nativeleak.inputs.oom.sources import KernelLogTail
from nativeleak.inputs.oom.witness import OomWitness

_KILL = (
    b"3,7,1000000,-;Memory cgroup out of memory: Killed process %d (drips) total-vm:127900kB, anon-rss:101888kB, "
    b"file-rss:1408kB, shmem-rss:0kB, UID:0 pgtables:244kB oom_score_adj:0\n"
)


def _log(path: Path) -> int:
    """A pipe that gives a record a read, as the kernel's buffer does."""
    os.mkfifo(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def test_witness_finds_the_kill_of_its_process_and_no_other(tmp_path: Path) -> None:
    log = _log(tmp_path / "kmsg")
    with OomWitness(os.getpid(), "drips", tmp_path / "kmsg") as witness:
        os.write(log, _KILL % (os.getpid() + 1))
        assert witness.look(was_killed=True) is None
        os.write(log, _KILL % os.getpid())
        kill = witness.look(was_killed=True)
    os.close(log)
    assert kill is not None
    assert kill.event is not None
    assert (kill.event.pid, kill.event.anon_rss_kb, kill.group) == (os.getpid(), 101888, None)


def test_witness_of_a_process_that_was_not_killed_says_none(tmp_path: Path) -> None:
    log = _log(tmp_path / "kmsg")
    with OomWitness(os.getpid(), "drips", tmp_path / "kmsg") as witness:
        os.write(log, _KILL % os.getpid())
        assert witness.look(was_killed=False) is None
    os.close(log)


def test_witness_without_a_log_has_nothing_to_say(tmp_path: Path) -> None:
    with OomWitness(os.getpid(), "drips", tmp_path / "none") as witness:
        assert witness.look(was_killed=True) is None
    with KernelLogTail(tmp_path / "none") as tail:
        assert not tail.is_readable
        assert list(tail.lines()) == []
