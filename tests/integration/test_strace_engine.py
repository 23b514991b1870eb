"""The strace engine: exact for address space, with threads and stacks; the target runs on however the trace ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from support import (
    Target,
    Trace,
    eventually,
    leaker,
    mismatches,
    nativeleak,
    require_program,
    strangers,
    target_path,
)
from tools import check_report

STRACE = ["--engine", "strace"]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _has_strace():
    require_program("strace")


def strace_of(trace):
    """Process id of the strace that a trace has started."""
    children = Path(f"/proc/{trace.process.pid}/task/{trace.process.pid}/children").read_text().split()
    found = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "strace\n"]
    assert len(found) == 1
    return found[0]


def is_free(pid):
    """Whether all threads of a process run or sleep, and nobody traces them."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["State"][0] in "Tt" or fields["TracerPid"] != "0":
            return False
    return True


@pytest.mark.parametrize("name", ["maps", "brk"])
def test_strace_address_space_is_exact_by_thread_and_function(name):
    with Target(name) as target, Trace(target, options=STRACE) as trace:
        truth = target.go()
        report = trace.stop()
        assert is_free(target.pid)
    assert report["tool"]["backend"] == "strace"
    assert check_report.check(report) == []
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []
    assert report["completeness"]["lost_events"] == report["completeness"]["unread_lines"] == 0
    assert "warning: strace stops a thread twice at every system call" in trace.stderr


@pytest.mark.jvm
def test_strace_java_leaker_names_the_thread_of_the_16_mib_blocks():
    with leaker("chunk-pool=5") as target, Trace(target, options=STRACE) as trace:
        target.send("go")
        truth = target.ask("until chunk-pool 7")
        report = trace.stop()
    (chunks,) = (site for site in truth["sites"] if site["name"] == "chunk-pool")
    blocks = [row for row in report["sites"] if "16 MiB malloc served by mmap" in row["frames"][0]["function"]]
    assert {(row["thread"]["name"], row["thread"]["tid"]) for row in blocks} == {("chunk-pool", chunks["tid"])}
    count = sum(row["outstanding_count"] for row in blocks)
    assert count == chunks["outstanding_count"]
    assert sum(row["outstanding_bytes"] for row in blocks) == count * (16 * MIB + 4096)
    assert all(any(f["function"].startswith("os::malloc") for f in row["frames"]) for row in blocks)


def test_strace_without_duration_ends_by_itself_after_a_minute_at_most():
    with Target("brk") as target, Trace(target, options=STRACE) as trace:
        trace.stop()
    assert f"tracing PID {target.pid} (brk) for 1m 00s: by strace" in trace.stderr


@pytest.mark.parametrize("victim", ["tracer", "strace"])
def test_strace_killed_target_runs_on(victim):
    with Target("race", 10007) as target, Trace(target, options=[*STRACE, "--interval", "0.2s"]) as trace:
        strace = strace_of(trace)
        target.send("go")
        if victim == "tracer":
            trace.process.kill()
            trace.process.wait()
        else:
            os.kill(strace, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{strace}").exists(), "strace has ended")
        eventually(lambda: is_free(target.pid), "the target is free")
        target.readline()
        if victim == "strace":
            report = trace.wait()
            assert report["recording"]["end_reason"] == "strace ended"
            assert "nativeleak: strace was ended by signal 9: the window ends there\n" in trace.stderr


def test_strace_target_killed_is_said():
    with Target("brk") as target, Trace(target, options=STRACE) as trace:
        target.process.kill()
        report = trace.wait()
    assert (report["target"]["end"], report["target"]["end_signal"]) == ("killed", 9)


def test_strace_exec_ends_the_window():
    with Target("execs") as target, Trace(target, options=STRACE) as trace:
        target.go()
        target.send("exec")
        target.wait_ready()
        report = trace.wait()
    assert report["target"]["end"] == "exec"
    assert "replaced itself by another program" in trace.stderr


def test_strace_of_children_counts_the_target_alone():
    with Target("forks") as target, Trace(target, options=STRACE) as trace:
        truth = target.go()
        report = trace.stop()
    assert mismatches(report, truth, kinds=("map", "brk")) == []


def test_strace_of_a_process_that_is_traced_already_is_refused(tmp_path):
    with Target("brk") as target:
        other = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(target.pid)], stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: not is_free(target.pid), "the other strace has attached")
            done = nativeleak("trace", "-p", target.pid, *STRACE, "-o", tmp_path / "x.nlk")
        finally:
            other.terminate()
            other.wait()
    assert done.returncode == 3
    assert done.stderr.startswith(
        f"nativeleak: tracing PID {target.pid} by strace failed: process {other.pid} (strace)"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["-f", "-ttt"], ["-f", "-k", "-Y", "-tt", "-T"]])
def test_recorded_output_of_strace_reports_the_same(tmp_path, options):
    program, output = target_path("maps"), tmp_path / "strace.txt"
    command = ["strace", *options, "-o", str(output), "-e", "trace=%memory,shmget,shmat,shmdt,%process", str(program)]
    with Target("maps", command=command) as target:
        truth = target.go()
        target.send("quit")
        target.wait()
    tid = truth["sites"][0]["tid"]
    done = nativeleak("trace", "--input", output, "-o", tmp_path / "x.nlk", "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert check_report.check(report) == []
    assert (report["target"]["pid"], report["target"]["comm"]) == (tid, "maps")
    if "-k" in options:
        assert mismatches(report, truth) == []
        return
    by_tid = {
        t: sum(s["outstanding_bytes"] for s in truth["sites"] if s["tid"] == t)
        for t in {s["tid"] for s in truth["sites"]}
    }
    for t, n_bytes in by_tid.items():
        found = sum(r["outstanding_bytes"] for r in report["sites"] if r["thread"]["tid"] == t)
        assert found >= n_bytes
