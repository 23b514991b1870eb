"""PIDs in namespaces other than ours, as far as they need none to be made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.cli.params import resolve_pids
from nativeleak.errors import NoTargetError, UsageError
from nativeleak.process.pidns import find_ns_pid, read_inner_pid_namespace

NOBODY = (1 << 22) + 1
"""Above the largest PID that Linux gives. Source: PID_MAX_LIMIT in include/linux/threads.h."""


def test_find_ns_pid_that_nobody_has_is_no_target():
    with pytest.raises(NoTargetError, match=f"--ns-pid {NOBODY}: there is no process {NOBODY} in a PID namespace"):
        find_ns_pid(NOBODY)


def test_find_ns_pid_in_our_own_namespace_is_no_target():
    with pytest.raises(NoTargetError, match="in the PID namespace of process"):
        find_ns_pid(os.getpid(), os.getpid())


def test_find_ns_pid_of_a_container_of_nobody_is_no_target():
    with pytest.raises(NoTargetError, match=f"--ns-of {NOBODY}: no such process"):
        find_ns_pid(1, NOBODY)


def test_read_inner_pid_namespace_is_none_on_the_host_and_its_inode_elsewhere():
    found = Path("/proc/self/ns/pid").stat()
    is_host = str(Path("/proc/self/ns/pid").readlink()) == "pid:[4026531836]"
    assert read_inner_pid_namespace() == (None if is_host else (found.st_dev, found.st_ino))


def test_resolve_pids_given_twice_are_one():
    assert resolve_pids((7, 5, 7), None, None) == (7, 5)


def test_resolve_pids_by_a_container_alone_is_wrong_usage():
    with pytest.raises(UsageError, match="--ns-of 7 needs --ns-pid"):
        resolve_pids((), None, 7)
