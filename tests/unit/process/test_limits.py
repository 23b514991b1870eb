"""Limits of a process: memory groups of both versions as folders laid out like theirs, rlimits, the machine."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path

from nativeleak.model import LimitKind
from nativeleak.process import procfs
from nativeleak.process.cgroups import group_folders
from nativeleak.process.limits import ProcessLimits

MIB = 1 << 20


def _group(folder: Path, files: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def _used(pid: int, folders: list[tuple[int, Path]]) -> dict[str, tuple[int, int | None]]:
    """By name the limit and the usage of the groups alone."""
    with ProcessLimits(pid, 0, folders) as limits:
        found = limits.read(procfs.read_status(pid))
    return {
        use.limit.name: (use.limit.limit_bytes, use.usage_bytes) for use in found if use.limit.kind is LimitKind.CGROUP
    }


def test_v2_limits_of_all_ancestors_are_found_and_page_cache_does_not_count(tmp_path: Path) -> None:
    outer, inner = tmp_path / "kubepods", tmp_path / "kubepods" / "pod 7"
    _group(tmp_path, {"memory.stat": "anon 1"})  # the root group has no limit
    stat = f"anon {300 * MIB}\ninactive_file {60 * MIB}\nactive_file {40 * MIB}"
    _group(
        outer, {"memory.max": 2048 * MIB, "memory.high": "max", "memory.current": 1000 * MIB, "memory.stat": "anon 1"}
    )
    _group(inner, {"memory.max": "max", "memory.high": 512 * MIB, "memory.current": 400 * MIB, "memory.stat": stat})
    blank = str(tmp_path).replace(" ", "\\040")
    mountinfo = f"30 24 0:26 / {blank} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
    folders = list(group_folders("0::/kubepods/pod 7", mountinfo))
    assert folders == [(2, inner), (2, outer), (2, tmp_path)]
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert _used(process.pid, folders) == {
                f"{inner}/memory.high": (512 * MIB, 300 * MIB),
                f"{outer}/memory.max": (2048 * MIB, 1000 * MIB),
            }
        finally:
            process.kill()


def test_v1_limits_with_swap_and_kernel_memory(tmp_path: Path) -> None:
    none = (1 << 63) - 4096
    _group(
        tmp_path,
        {
            "memory.limit_in_bytes": 220 * MIB,
            "memory.usage_in_bytes": 150 * MIB,
            "memory.memsw.limit_in_bytes": none,
            "memory.memsw.usage_in_bytes": 150 * MIB,
            "memory.kmem.limit_in_bytes": 16 * MIB,
            "memory.kmem.usage_in_bytes": 3 * MIB,
            "memory.stat": f"inactive_file 1\ntotal_inactive_file {7 * MIB}\ntotal_active_file {3 * MIB}",
        },
    )
    assert _used(1, [(1, tmp_path)]) == {
        f"{tmp_path}/memory.limit_in_bytes": (220 * MIB, 140 * MIB),
        f"{tmp_path}/memory.kmem.limit_in_bytes": (16 * MIB, 3 * MIB),
    }


def test_usage_is_read_anew_and_a_removed_group_has_none(tmp_path: Path) -> None:
    _group(tmp_path, {"memory.max": 100 * MIB, "memory.current": MIB, "memory.stat": "inactive_file 0"})
    with ProcessLimits(1, 1, [(2, tmp_path)]) as limits:
        (tmp_path / "memory.current").write_text(f"{2 * MIB}\n")
        assert [use.usage_bytes for use in limits.read({})] == [2 * MIB]
        (tmp_path / "memory.current").write_text("")
        assert [use.usage_bytes for use in limits.read({})] == [None]


def test_rlimits_and_the_machine() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))

    with subprocess.Popen(["sleep", "60"], preexec_fn=limit) as process:
        try:
            with ProcessLimits(process.pid, 0, []) as limits:
                status = procfs.read_status(process.pid)
                rlimit, machine = limits.read(status)
        finally:
            process.kill()
    assert rlimit.limit.kind is LimitKind.RLIMIT
    assert rlimit.limit.name == "RLIMIT_AS (ulimit -v)"
    assert rlimit.limit.limit_bytes == 3 << 30
    assert rlimit.usage_bytes == int(status["VmSize"].split()[0]) << 10
    assert machine.limit.kind is LimitKind.MACHINE
    assert 0 < (machine.usage_bytes or 0) < machine.limit.limit_bytes
