"""Targets with a great many threads, mappings and objects: exact, in bounded time, and what has no room is said.

NATIVELEAK_TEST_SCALE=10 takes ten times as many; benchmarks/scale.py says what they cost.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from support import Target, Trace, nativeleak, target_path

BLOCK_BYTES = 1009
FACTOR = int(os.environ.get("NATIVELEAK_TEST_SCALE", "1"))
MAX_MAPPINGS = 2048
"""Executable ones of a target that the kernel side knows; NL_MAX_MAPPINGS in bpf/nativeleak.h."""


def heap_of(report):
    """Bytes, allocations and threads of the target's own blocks."""
    sites = [site for site in report["sites"] if site["kind"] == "heap"]
    return (
        sum(site["outstanding_bytes"] for site in sites),
        sum(site["outstanding_count"] for site in sites),
        {site["thread"]["name"] for site in sites},
    )


def test_threads_by_the_thousand_are_exact_each_with_its_name():
    n = 1000 * FACTOR
    with Target("many", "threads", n) as target, Trace(target) as trace:
        blocks = target.go()["blocks"]
        report = trace.stop()
    assert blocks == n
    assert heap_of(report) == (n * BLOCK_BYTES, n, {f"worker-{i}" for i in range(n)})


@pytest.mark.parametrize("kind", ["maps", "late"])
def test_mappings_by_the_thousand_are_exact(kind):
    n = 6500 * FACTOR
    with Target("many", kind, n) as target, Trace(target, options=["--ring-size", "16M"]) as trace:
        target.go()
        report = trace.stop()
    assert heap_of(report)[:2] == (BLOCK_BYTES, 1)
    mapped = report["totals"]["map"]
    n_seen = n if kind == "late" else 0
    assert (mapped["outstanding_bytes"], mapped["outstanding_count"]) == (n_seen * 4096, n_seen)


@pytest.mark.parametrize("n", [600, 3000])
def test_executable_mappings_by_the_hundred_leave_the_stacks_whole_and_are_told_of_beyond_the_limit(n):
    with Target("many", "code", n, target_path("libhostile.so")) as target, Trace(target) as trace:
        target.go()
        report = trace.stop()
        text = nativeleak("report", trace.recording, "--all").stdout
    assert heap_of(report)[:2] == (BLOCK_BYTES, 1)
    assert report["completeness"]["truncated_stacks"] == 0
    assert ("executable mappings" in text) == (n > MAX_MAPPINGS)


def n_taken(report):
    """Blocks whose stack has the objects' function."""
    taken = [site for site in report["sites"] if any(frame["function"] == "take" for frame in site["frames"])]
    return sum(site["outstanding_count"] for site in taken)


def test_objects_by_the_thousand_each_with_whole_stacks(tmp_path):
    n = 550 * FACTOR
    for i in range(n):
        shutil.copyfile(target_path("libhostile.so"), tmp_path / f"{i}.so")
    with Target("many", "objects", n, tmp_path) as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        target.go()
        report = trace.stop()
    assert heap_of(report)[:2] == (n * BLOCK_BYTES, n)
    # Copies of one build have one name.
    assert n_taken(report) == n


def test_objects_more_than_files_may_be_open_are_exact_and_named(tmp_path):
    """Under the limit that a service has by default, a quarter of it here."""
    n = 400
    for i in range(n):
        shutil.copyfile(target_path("libhostile.so"), tmp_path / f"{i}.so")
    with Target("many", "objects", n, tmp_path) as target:
        options = ["--interval", "0.2s", "--duration", "3s"]
        command = ["prlimit", "--nofile=256:256", sys.executable, "-m", "nativeleak", "trace", *options]
        command += ["-p", str(target.pid), "--format", "none", "-o", str(tmp_path / "trace.nlk")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert "tracing" in tracer.stderr.readline()
            target.go()
            assert tracer.wait(60) == 0, tracer.stderr.read()
    report = json.loads(nativeleak("report", tmp_path / "trace.nlk", "--format", "json").stdout)
    assert heap_of(report)[:2] == (n * BLOCK_BYTES, n)
    assert n_taken(report) > n // 2
