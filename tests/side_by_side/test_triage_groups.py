"""Triage in a real control group: triage lists its charges by kind, with every ancestor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_group import MemoryGroup, require_memory_group
from support import nativeleak, require

MIB = 1 << 20
LIMIT_MIB = 220
ANON_MIB, TABLES_MIB, CACHE_MIB, SHM_MIB = 31, 17, 41, 37
"""Written by the program; each touched page of the thin mapping takes a page and a page table."""

FILLER = f"""
import mmap, sys
MAP_NORESERVE = 0x4000
kept = bytearray({ANON_MIB} << 20)
thin = mmap.mmap(-1, {TABLES_MIB} << 29, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
thin.madvise(mmap.MADV_NOHUGEPAGE)
for place in range(0, len(thin), 2 << 20):
    thin[place] = 1
for path, mode, n in ((sys.argv[1], sys.argv[2], {CACHE_MIB}), (sys.argv[3], "wb", {SHM_MIB})):
    with open(path, mode) as file:
        for _ in range(n):
            file.write(bytes(1 << 20)) if mode == "wb" else file.read(1 << 20)
print(flush=True)
input()
"""


@contextmanager
def cached_file() -> Iterator[tuple[str, str]]:
    """A file that is in no tmpfs, and how to open it.

    Where only a tmpfs can be written, as on the machines of ``scripts/kernels``, it is a large one to read: nobody has
    read it before there.
    """
    here = Path(__file__).parent
    if os.access(here, os.W_OK):
        with tempfile.TemporaryDirectory(dir=here, prefix=".nativeleak-test-") as disk:
            yield f"{disk}/file", "wb"
    else:
        large = [path for path in Path("/usr/lib/jvm").glob("*/lib/modules") if path.stat().st_size > CACHE_MIB * MIB]
        require(large, "no folder that is no tmpfs can be written, and there is no JDK to read")
        yield str(large[0]), "rb"


def test_kinds_of_a_groups_memory_are_what_was_made() -> None:
    require_memory_group()
    require(os.access("/dev/shm", os.W_OK), "no /dev/shm")
    with (
        MemoryGroup(LIMIT_MIB) as group,
        tempfile.TemporaryDirectory(dir="/dev/shm") as shm,
        cached_file() as (path, mode),
    ):
        command = [*group.within, sys.executable, "-c", FILLER, path, mode, f"{shm}/file"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            done = nativeleak("triage", "-p", process.pid, "--format", "json")
            text = nativeleak("triage", "-p", process.pid, "--all").stdout
            process.communicate(b"\n")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        inner, *outer = report["groups"]
        assert inner["path"] == str(group.path)
        assert [each["path"] for each in outer] == [str(path) for path in group.path.parents][: len(outer)]
        assert inner["limits"]["memory.limit_in_bytes" if inner["version"] == 1 else "memory.max"] == LIMIT_MIB << 20
        assert 0 <= inner["anonymous_bytes"] - (ANON_MIB + TABLES_MIB) * MIB < 16 * MIB  # Python's own
        assert CACHE_MIB * MIB <= inner["page_cache_bytes"] < (CACHE_MIB + 8) * MIB
        assert 0 <= inner["shared_memory_bytes"] - SHM_MIB * MIB < MIB
        assert TABLES_MIB * MIB <= inner["kernel_bytes"] < (TABLES_MIB + 12) * MIB
        if inner["version"] == 2:
            assert dict(inner["kernel_parts"])["pagetables"] >= TABLES_MIB * MIB
        kinds = ("anonymous_bytes", "page_cache_bytes", "shared_memory_bytes", "kernel_bytes")
        assert abs(sum(inner[kind] for kind in kinds) - inner["usage_bytes"]) < 4 * MIB  # counted in batches
        assert inner["n_processes"] == 1
        verdict = next(each for each in report["verdicts"] if each["id"] == "group-shared-memory")
        assert f"holds {SHM_MIB}" in verdict["text"]
        assert f"cgroup {group.path}: " in text
        assert text.count("cgroup /") >= len(report["groups"])
