"""Groups of probes that come and go, with real descriptors as their probes, on processes that end meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.engines.bpf.kernel.groups import ALL_GROUPS, FREES_ONLY, Close, Group, ProbeGroups, close_together
from nativeleak.errors import CannotTraceError


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield started
    for each in started:
        each.kill()
        each.wait()


def _descriptor(pid: int) -> int:
    """What a probe of a process is to the kernel: a descriptor that needs the process to live."""
    return os.pidfd_open(pid)


def _with_probes(processes: list[subprocess.Popen[bytes]], *, linked: bool) -> ProbeGroups:
    groups = ProbeGroups()
    for process in processes:
        pid = process.pid
        for group in (Group.FREES, Group.ALLOCATIONS):

            def attach(pid: int = pid) -> list[Close]:
                fd = _descriptor(pid)
                return [lambda: os.close(fd)]

            def link(pid: int = pid) -> int:
                return _descriptor(pid)

            groups.add(group, attach, owner=pid, link=link if linked else None)
    return groups


def _n_pidfds() -> int:
    paths = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            paths.append(str(fd.readlink()))
        except FileNotFoundError:
            continue  # that of the listing
    return sum("pidfd" in path for path in paths)


@pytest.mark.parametrize("linked", [False, True])
def test_probes_of_a_process_that_ended_are_forgotten_and_the_others_attached(
    processes: list[subprocess.Popen[bytes]], *, linked: bool
) -> None:
    before = _n_pidfds()
    groups = _with_probes(processes, linked=linked)
    assert _n_pidfds() - before == 4
    groups.want(frozenset())
    assert _n_pidfds() - before == 0
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    groups.want(ALL_GROUPS)
    assert (_n_pidfds() - before, len(groups)) == (2, 2)
    groups.want(FREES_ONLY)
    groups.want(ALL_GROUPS)
    assert _n_pidfds() - before == 2
    for close in groups.drop():
        close()
    assert _n_pidfds() - before == 0


def test_nothing_is_left_to_attach_where_all_have_ended(processes: list[subprocess.Popen[bytes]]) -> None:
    groups = _with_probes(processes, linked=True)
    groups.want(frozenset())
    for process in processes:
        process.kill()
        process.wait()
    groups.want(ALL_GROUPS)
    assert len(groups) == 0


def test_probes_that_were_held_back_are_attached_together_and_no_earlier(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    groups, n_before = ProbeGroups(), _n_pidfds()
    groups.hold_back()
    for process in processes:

        def link(pid: int = process.pid) -> int:
            return _descriptor(pid)

        groups.add(Group.FREES, list, link=link)
    assert _n_pidfds() == n_before
    groups.attach_held()
    assert (_n_pidfds(), groups.wanted) == (n_before + 2, ALL_GROUPS)
    close_together(groups.drop())
    assert _n_pidfds() == n_before


def test_refusal_of_a_probe_that_was_held_back_names_its_file() -> None:
    def refuse() -> list[Close]:
        raise PermissionError(errno.EPERM, "no")

    groups = ProbeGroups()
    groups.hold_back()
    groups.add(Group.FREES, refuse, name="libmade-up.so")
    with pytest.raises(CannotTraceError, match=r"libmade-up\.so"):
        groups.attach_held()
