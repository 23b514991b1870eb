"""Limits of memory groups, as the kernel's files say them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.process.cgroups import (
    Hierarchy,
    MemoryGroup,
    parse_hierarchies,
    parse_paths,
    read_memory_groups,
    shared_groups,
)

MOUNTINFO = r"""24 31 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 24 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:15 - cgroup cgroup rw,memory
32 24 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:16 - cgroup cgroup rw,cpu,cpuacct
33 24 0:29 /kubepods/pod7 /mnt/with\040blank rw - cgroup cgroup rw,memory
damaged
"""
CGROUP = """12:pids:/user.slice
5:memory:/kubepods/pod7/one
4:cpu,cpuacct:/user.slice
0::/user.slice/user-0.slice
"""


def test_hierarchies_are_those_in_which_memory_is_accounted():
    assert parse_hierarchies(MOUNTINFO) == [
        Hierarchy(2, "/", "/sys/fs/cgroup/unified"),
        Hierarchy(1, "/", "/sys/fs/cgroup/memory"),
        Hierarchy(1, "/kubepods/pod7", "/mnt/with blank"),
    ]


def test_paths_of_a_process_by_version():
    assert parse_paths(CGROUP) == {1: "/kubepods/pod7/one", 2: "/user.slice/user-0.slice"}
    assert parse_paths("0::/\n") == {2: "/"}
    assert parse_paths("") == {}


def test_room_is_what_is_left_and_what_the_page_cache_can_give_back():
    assert MemoryGroup(Path("/g"), 100, 80, 30).room_bytes == 50
    assert MemoryGroup(Path("/g"), 100, 120, 0).room_bytes == 0


def test_groups_of_a_process_that_is_gone_are_none():
    assert read_memory_groups(2**22 + 1) == []


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (1, {"memory.limit_in_bytes": "300\n", "memory.usage_in_bytes": "200\n",
             "memory.stat": "inactive_file 1\ntotal_inactive_file 20\ntotal_active_file 5\n"}),
        (2, {"memory.max": "300\n", "memory.current": "200\n", "memory.stat": "inactive_file 20\nactive_file 5\n"}),
    ],
)  # fmt: skip
def test_group_with_a_limit_between_groups_without(version, files, tmp_path, monkeypatch):
    unlimited = {1: ("memory.limit_in_bytes", str(2**63 - 4096)), 2: ("memory.max", "max")}[version]
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder in (tmp_path, inner):
        (folder / unlimited[0]).write_text(unlimited[1])
    for name, text in files.items():
        (tmp_path / "a" / name).write_text(text)
    kind = "cgroup2 none rw" if version == 2 else "cgroup none rw,memory"
    listing = {
        "/proc/self/mountinfo": f"1 1 0:1 / {tmp_path} rw - {kind}\n",
        "/proc/7/cgroup": "0::/a/b\n" if version == 2 else "3:memory:/a/b\n",
        f"/proc/{os.getpid()}/cgroup": "0::/a\n" if version == 2 else "3:memory:/a\n",
    }
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: listing.get(str(self)) or read_text(self, *a, **k))
    expected = [MemoryGroup(tmp_path / "a", 300, 200, 25)]
    assert read_memory_groups(7) == expected
    assert shared_groups(os.getpid(), [7]) == expected
    assert shared_groups(os.getpid(), []) == []
