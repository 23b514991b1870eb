"""A tracer in the memory group of its target, as in a container: in a shortage the tracer goes, not the target."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_group import MemoryGroup, require_memory_group
from stacks import await_snapshots
from support import Report, Target, Trace, nativeleak

LIMIT_MIB = 300


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    require_memory_group()
    with MemoryGroup(LIMIT_MIB) as made:
        yield made


def assert_unharmed(target: Target) -> None:
    """It still runs, and all its memory is as it wrote it."""
    target.send("quit")
    assert target.readline().startswith("OK ")
    assert target.wait() == 0


def report_elsewhere(recording: Path) -> Report:
    """Make the report outside of the group."""
    done = nativeleak("report", recording, "--format", "json")
    assert done.returncode == 0, done.stderr
    report: Report = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("budget", ["5%", "off"])
def test_target_with_60_mib_free_lives_and_the_report_is_left_to_be_made_elsewhere(
    group: MemoryGroup, budget: str
) -> None:
    with group.target(60) as target:
        options = ["--duration", "2s", "--max-overhead", budget]
        with Trace(target, options=options, within=group.within) as trace:
            status = trace.wait_end()
            assert_unharmed(target)
            assert group.n_oom_kills == 0
            assert status == 1
            said = trace.stderr
            report = report_elsewhere(trace.recording)
    assert f"control group {group.path} has " in said
    assert "which the target shares: kernel maps hold at most" in said
    assert "nativeleak: no report was made: it takes some 52." in said
    assert f"here or elsewhere: nativeleak report {trace.recording}\n" in said
    assert report["recording"]["end_reason"] == "duration"
    if budget == "off":
        assert report["totals"]["heap"]["allocated_count"] > 0


@pytest.mark.parametrize("engine", ["auto", "libbpf"])
def test_target_with_20_mib_free_lives_and_no_engine_begins(group: MemoryGroup, engine: str) -> None:
    with group.target(20) as target:
        options = ["--duration", "2s", "--engine", engine]
        with Trace(target, options=options, within=group.within, attaches=False) as trace:
            status = trace.wait_end()
            assert_unharmed(target)
        assert group.n_oom_kills == 0
        assert status == 3
        assert not trace.recording.exists()
    assert "falling back" not in trace.stderr
    assert f"nativeleak: tracing failed: control group {group.path} has " in trace.stderr
    assert "run nativeleak outside of the group" in trace.stderr


def test_shortage_that_the_target_makes_ends_the_tracer_not_the_target(group: MemoryGroup) -> None:
    with group.target(60) as target, Trace(target, options=["--interval", "0.2s"], within=group.within) as trace:
        await_snapshots(trace, 2)
        target.send("grow 50")
        assert target.readline() == "GREW"
        assert trace.wait_end() == -signal.SIGKILL
        assert group.n_oom_kills == 1
        assert_unharmed(target)
        report = report_elsewhere(trace.recording)
    assert report["totals"]["heap"]["allocated_count"] > 0


def test_report_with_room_is_made_in_the_group_and_would_go_before_the_target(group: MemoryGroup) -> None:
    with group.target(150) as target:
        options = ["--duration", "1s"]
        with Trace(target, options=options, within=group.within) as trace:
            assert trace.wait()["totals"]["heap"]["allocated_count"] > 0
            assert_unharmed(target)
    assert group.n_oom_kills == 0


def test_process_that_is_started_by_the_tracer_goes_before_the_target(group: MemoryGroup) -> None:
    """The report's process is started as this child is: what the recorder did to itself, it has inherited."""
    script = """
import sys
from nativeleak import children
from nativeleak.process.oom import prefer_as_oom_victim
prefer_as_oom_victim([int(sys.argv[1])])
children.run(children.python_code("kept = []\\nwhile True: kept.append(bytearray(1 << 20))"))
"""
    with group.target(60) as target:
        command = [*group.within, sys.executable, "-c", script, str(target.pid)]
        subprocess.run(command, check=False, capture_output=True, timeout=60)
        assert group.n_oom_kills >= 1
        assert_unharmed(target)
