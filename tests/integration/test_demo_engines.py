"""The two demonstrations by the engines without BPF: strace names the thread of what leaks, pmap the region."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from nativeleak.demo.run import LeakingProgram
from nativeleak.process.procfs import read_rss
from support import ANSWER_TIMEOUT_S, ROOT, Trace, eventually, require_program, require_root
from tools import check_report

MIB = 1 << 20
CHUNK = 16 * MIB + 4096
"""A block of malloc as mmap serves it."""
STRACE = ["--engine", "strace", "--interval", "0.5s"]
PMAP = ["--engine", "pmap", "--interval", "0.5s"]
LONGEST_S = 600.0
"""The program's work is ended sooner."""


def scripts_demo(*options):
    """The report of ``scripts/demo``; its Java service goes on leaking while the trace ends."""
    require_root()
    require_program("java", "javac")
    command = [ROOT / "scripts/demo", "--duration", "8s", "--format", "json", "--max-overhead", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * ANSWER_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert check_report.check(report) == []
    (recording,) = [line for line in done.stderr.splitlines() if "the recording is " in line]
    path = Path(recording.partition("the recording is ")[2].partition(";")[0])
    path.unlink()
    path.parent.rmdir()
    return report


def blocks_of_16_mib(report):
    rows = [row for row in report["sites"] if "[16 MiB malloc served by mmap]" in row["frames"][0]["function"]]
    assert rows
    for row in rows:
        # scripts/demo says no truth: but each block is whole, and none is anything else.
        assert row["outstanding_bytes"] == row["outstanding_count"] * CHUNK
    return rows


@pytest.mark.jvm
def test_scripts_demo_by_strace_names_the_thread_of_the_16_mib_blocks():
    require_program("strace")
    report = scripts_demo(*STRACE)
    assert report["tool"]["backend"] == "strace"
    rows = blocks_of_16_mib(report)
    assert {row["thread"]["name"] for row in rows} == {"chunk-pool"}
    assert len({row["thread"]["tid"] for row in rows}) == 1


@pytest.mark.jvm
def test_scripts_demo_by_pmap_names_the_region_of_the_16_mib_blocks():
    report = scripts_demo(*PMAP)
    assert report["tool"]["backend"] == "pmap"
    (row,) = blocks_of_16_mib(report)
    assert row["frames"][0]["function"] == "[16 MiB malloc served by mmap]"
    assert row["resident_bytes"] == row["outstanding_bytes"] > 0


def trace_of_the_demos_program(options):
    """What is reported of the program of ``nativeleak demo``, and what its threads hold: name -> habit."""
    with LeakingProgram() as program, Trace(program.pid, options=options) as trace:
        before = read_rss(program.pid)
        program.begin(LONGEST_S)
        eventually(lambda: read_rss(program.pid) >= before + 4 * MIB, "the program has leaked")
        truth = program.truth()
        report = trace.stop()
    assert check_report.check(report) == []
    return report, {thread["thread"]: thread for thread in truth["threads"]}


def test_demos_program_by_strace_names_the_thread_of_the_mappings():
    require_program("strace")
    report, threads = trace_of_the_demos_program(STRACE)
    leak = threads["leaks-mappings"]
    # The interpreter maps for itself too; the program's own calls come by way of libffi.
    rows = [
        row
        for row in report["sites"]
        if row["kind"] == "map" and any(frame["function"].startswith("ffi_call") for frame in row["frames"])
    ]
    mapped = [row for row in rows if row["outstanding_bytes"] % MIB == 0 and row["functions"] == ["mmap"]]
    assert {(row["thread"]["name"], row["thread"]["tid"]) for row in mapped} == {("leaks-mappings", leak["tid"])}
    assert sum(row["outstanding_bytes"] for row in mapped) == leak["outstanding_bytes"] > 0
    assert sum(row["outstanding_count"] for row in mapped) == leak["outstanding_count"]


def test_demos_program_by_pmap_names_the_region_of_the_mappings():
    report, threads = trace_of_the_demos_program(PMAP)
    leak = threads["leaks-mappings"]
    (row,) = [row for row in report["sites"] if row["frames"][0]["function"] == "[anonymous memory]"]
    # The interpreter's own arenas of a mebibyte each are no others to pmap.
    assert leak["outstanding_bytes"] <= row["outstanding_bytes"] < leak["outstanding_bytes"] + 4 * MIB
    assert row["resident_bytes"] >= leak["outstanding_bytes"] > 0
