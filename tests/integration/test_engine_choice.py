"""Which engine traces: auto goes down the list and says so, a forced one refuses; capabilities do instead of root."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import (
    ANSWER_TIMEOUT_S,
    NOBODY,
    TRACEFS,
    WITHOUT_TRACEFS,
    Target,
    Trace,
    as_nobody,
    eventually,
    mismatches,
    nativeleak,
    require,
    require_program,
    strangers,
    target_path,
    without_program,
)
from tools import check_report

CAPABILITIES = ("bpf", "perfmon", "sys_ptrace", "dac_read_search")
WITHOUT_BPF = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"]


def own_target(name):
    """A target of the user without rights, in whose processes that user may look."""
    command, _ = as_nobody()
    # Its program must be where that user can read it: where the package can be imported from, the targets are too.
    return Target(name, command=[*command[:-1], target_path(name)])


@pytest.mark.parametrize("name", ["battery", "maps"])
def test_four_capabilities_do_instead_of_root(name, tracefs_state):
    with Target(name) as target, Trace(target, capabilities=CAPABILITIES, within=TRACEFS[tracefs_state]) as trace:
        truth = target.go()
        report = trace.stop()
    assert report["tool"]["backend"] == "bpf-libbpf"
    assert check_report.check(report) == []
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []


@pytest.mark.parametrize("name", ["maps", "brk"])
def test_system_calls_by_raw_tracepoints_are_exact(name):
    """Without the right to mount tracefs; and no allocator probes, for perf events take more rights to make them."""
    options = ["--maps-only", "-v", "--engine", "libbpf", "--syscalls", "tracepoints"]
    how = {"capabilities": CAPABILITIES, "within": WITHOUT_TRACEFS}
    with Target(name) as target, Trace(target, options=options, **how) as trace:
        truth = target.go()
        report = trace.stop()
    assert "used raw tracepoints, at every system call" in trace.stderr
    assert report["tool"]["backend"] == "bpf-libbpf"
    assert report["completeness"]["lost_events"] == 0
    assert mismatches(report, truth, kinds=("map", "brk")) == []
    wanted = sum(site["outstanding_bytes"] for site in truth["sites"] if site["kind"] == "map")
    assert report["totals"]["map"]["outstanding_bytes"] == wanted


def test_three_capabilities_do_where_all_files_can_be_read(tracefs_state):
    with Target("brk") as target, Trace(target, capabilities=CAPABILITIES[:3], within=TRACEFS[tracefs_state]) as trace:
        truth = target.go()
        report = trace.stop()
    assert report["tool"]["backend"] == "bpf-libbpf"
    assert mismatches(report, truth) == []


def test_user_without_rights_gets_pmap_of_own_processes_in_one_line():
    with own_target("maps") as target, Trace(target, capabilities=()) as trace:
        target.go()
        report = trace.stop()
    assert report["tool"]["backend"] == "pmap"
    assert check_report.check(report) == []
    fell = [line for line in trace.stderr.splitlines() if line.startswith("nativeleak: falling back")]
    assert fell == [
        "nativeleak: falling back to pmap (loading the BPF programs failed: Operation not permitted); not available: "
        "call stacks, threads and single allocations"
    ]


def test_engine_without_heap_blocks_says_at_once_that_no_addresses_are_recorded():
    with own_target("maps") as target, Trace(target, options=("--holders",), capabilities=()) as trace:
        trace.wait_line("nativeleak: no addresses of blocks are recorded: pmap sees no heap blocks here")
        report = trace.stop()
    assert [note["what"] for note in report["notes"]].count("blocks") == 1
    assert report["looks"][0]["why_not"] == "no addresses of blocks were recorded"


def test_user_without_rights_is_refused_processes_of_others():
    with Target("brk") as target, Trace(target, capabilities=(), attaches=False) as trace:
        assert trace.wait_end() == 3
        assert trace.stderr.startswith(
            f"nativeleak: trace of PID {target.pid} failed: no permission to read its mappings"
        )


def test_root_without_bpf_falls_to_strace_and_says_so(tmp_path):
    require_program("setpriv", "strace")
    with Target("brk") as target:
        process = subprocess.Popen(
            [*WITHOUT_BPF, sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--format", "json", "-o",
             str(tmp_path / "x.nlk")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            said = []
            while not (line := process.stderr.readline()).startswith("nativeleak: tracing"):
                said.append(line)
                assert line
            truth = target.go()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=ANSWER_TIMEOUT_S)
        finally:
            process.kill()
    report = json.loads(output)
    assert report["tool"]["backend"] == "strace"
    assert mismatches(report, truth) == []
    assert said[0].startswith("nativeleak: falling back to strace (loading the BPF programs failed: ")
    assert said[1].startswith("nativeleak: warning: strace stops a thread twice at every system call")
    assert len(said) == 2


@pytest.mark.parametrize(
    ("engine", "first", "remedy"),
    [
        ("libbpf", "loading the BPF programs failed: Operation not permitted", "CAP_BPF"),
        ("strace", "tracing by strace failed: strace is not installed", "apt-get install strace"),
    ],
)
def test_forced_engine_that_cannot_work_is_refused_with_the_remedy(engine, first, remedy, tmp_path):
    require_program("setpriv")
    output = tmp_path / "x.nlk"
    with Target("brk") as target:
        done = subprocess.run(
            [*without_program("strace"), *WITHOUT_BPF, sys.executable, "-m", "nativeleak", "trace",
             "-p", str(target.pid), "--engine", engine, "-o", str(output)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith(f"nativeleak: {first}\n")
    assert remedy in done.stderr
    assert not output.exists()


def test_32_bit_process_is_traced_by_strace():
    require_program("strace")
    require(platform.machine() == "x86_64", "32-bit programs here are for x86")
    with Target("calls32") as target, Trace(target, timeout_s=60) as trace:
        target.send("go")
        assert target.readline() == "done"
        report = trace.stop()
    assert "nativeleak: falling back to strace (trace of PID" in trace.stderr
    assert "it is a 32-bit process); not available: " in trace.stderr
    assert check_report.check(report) == []
    held = {kind: report["totals"][kind]["outstanding_bytes"] // 4096 for kind in ("map", "brk")}
    assert held == {"map": 5 + 6, "brk": 3}


def test_doctor_says_beforehand_what_auto_takes():
    command, environment = as_nobody()
    with own_target("brk") as target:
        eventually(lambda: Path(f"/proc/{target.pid}").stat().st_uid == NOBODY, "the user's own")
        done = subprocess.run(
            [*command, "-m", "nativeleak", "doctor", "-p", str(target.pid)],
            env=environment, capture_output=True, text=True, check=False, timeout=60, cwd="/",
        )  # fmt: skip
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[-2].split(None, 2)[:2] == ["warn", "engine"]
    assert "auto takes pmap: not libbpf (rights, " in lines[-2]
    assert lines[-1].startswith("trace will work, but without BPF (rights, ")
    with Target("brk") as target:
        done = nativeleak("doctor", "-p", target.pid)
    assert done.stdout.splitlines()[-2].split() == ["ok", "engine", "auto", "takes", "libbpf"]
