"""What groups are charged for, from folders laid out like those of both versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from nativeleak.process.charges import GroupCharge, charges_of

MIB = 1 << 20


def write(folder: Path, files: Mapping[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    return folder


def test_v2_says_all_kinds_of_kernel_memory_and_every_ancestor(tmp_path: Path) -> None:
    stat = {
        "anon": 101, "file": 211, "kernel": 307, "kernel_stack": 17, "pagetables": 41, "sec_pagetables": 0,
        "percpu": 11, "sock": 23, "vmalloc": 3, "shmem": 13, "slab_reclaimable": 60, "slab_unreclaimable": 40,
        "slab": 100, "inactive_file": 150,
    }  # fmt: skip
    inner = write(
        tmp_path / "pod" / "one",
        {
            "memory.max": 900 * MIB, "memory.high": 800 * MIB, "memory.swap.max": "max", "memory.current": 700,
            "memory.swap.current": 29, "memory.stat": "\n".join(f"{k} {v}" for k, v in stat.items()),
            "cgroup.procs": "7\n8",
        },
    )  # fmt: skip
    outer = write(tmp_path / "pod", {"memory.max": "max", "memory.current": 7001, "memory.stat": "anon 5\nslab 9"})
    root = write(tmp_path, {"memory.stat": "anon 1"})  # the root group has no usage
    assert charges_of([(2, inner), (2, outer), (2, root)]) == [
        GroupCharge(
            inner, 2, {"memory.max": 900 * MIB, "memory.high": 800 * MIB}, 700, anonymous=101, page_cache=198,
            shared_memory=13, kernel=307,
            kernel_parts=(("slab", 100), ("pagetables", 41), ("kernel_stack", 17), ("percpu", 11), ("vmalloc", 3)),
            sockets=23, swap=29, n_processes=2,
        ),
        GroupCharge(outer, 2, {}, 7001, anonymous=5, kernel=9, kernel_parts=(("slab", 9),)),
    ]  # fmt: skip


def test_v1_counts_the_descendants_and_names_every_limit(tmp_path: Path) -> None:
    none = (1 << 63) - 4096
    inner = write(
        tmp_path / "one",
        {
            "memory.limit_in_bytes": 220 * MIB, "memory.usage_in_bytes": 150 * MIB,
            "memory.memsw.limit_in_bytes": 230 * MIB, "memory.memsw.usage_in_bytes": 157 * MIB,
            "memory.kmem.limit_in_bytes": 16 * MIB, "memory.kmem.usage_in_bytes": 3 * MIB,
            "memory.kmem.tcp.limit_in_bytes": none, "memory.kmem.tcp.usage_in_bytes": 8192,
            "memory.stat": f"cache 1\nrss 2\nshmem 3\ntotal_cache {47 * MIB}\ntotal_rss {101 * MIB}\n"
            f"total_shmem {5 * MIB}",
            "cgroup.procs": "7",
        },
    )  # fmt: skip
    root = write(tmp_path, {"memory.limit_in_bytes": none, "memory.usage_in_bytes": 900 * MIB, "memory.stat": "rss 3"})
    found = charges_of([(1, inner), (1, root)])
    limits = {
        "memory.limit_in_bytes": 220 * MIB, "memory.memsw.limit_in_bytes": 230 * MIB,
        "memory.kmem.limit_in_bytes": 16 * MIB,
    }  # fmt: skip
    assert found == [
        GroupCharge(
            inner, 1, limits, 150 * MIB, anonymous=101 * MIB, page_cache=42 * MIB, shared_memory=5 * MIB,
            kernel=3 * MIB, sockets=8192, swap=7 * MIB, n_processes=1,
        ),
        GroupCharge(root, 1, {}, 900 * MIB, anonymous=3),
    ]  # fmt: skip
    assert [group.limit for group in found] == [220 * MIB, None]


@pytest.mark.parametrize("version", [1, 2])
def test_group_that_is_gone_or_damaged_is_left_out(tmp_path: Path, version: int) -> None:
    damaged = write(tmp_path / "x", {"memory.current": "much", "memory.usage_in_bytes": ""})
    assert charges_of([(version, tmp_path / "gone"), (version, damaged)]) == []
