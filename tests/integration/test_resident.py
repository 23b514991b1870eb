"""Resident memory by use, its peak, and the time to a limit, against programs that know what they touch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from memory_group import MemoryGroup, require_memory_group
from nativeleak.recording import open_recording
from stacks import await_snapshots
from support import Report, Target, Trace, eventually, nativeleak, target_path

MIB = 1 << 20
NEAR = 3 * MIB
"""The kernel counts resident pages by batches for each thread, and libraries are touched meanwhile."""


def changes(report: Report) -> dict[str, int]:
    """Growth of each line from start to end."""
    return {line["id"]: line["end_bytes"] - line["start_bytes"] for line in report["resident"]["lines"]}


def peaks(report: Report) -> dict[str, int]:
    """Each line at the peak, above the start."""
    return {line["id"]: line["peak_bytes"] - line["start_bytes"] for line in report["resident"]["lines"]}


def most_read(recording: Path) -> int:
    """Resident memory at the highest reading by use so far."""
    with open_recording(recording) as opened:
        return max((reading.rss_bytes for reading in opened.memory.readings), default=0)


def assert_closed(report: Report) -> None:
    """The lines add up to the memory that the snapshots saw."""
    total = sum(line["end_bytes"] for line in report["resident"]["lines"])
    assert total == pytest.approx(report["resident"]["last_bytes"], abs=NEAR)


def at(recording: Path, moment: str) -> Report:
    """The report of a moment."""
    done = nativeleak("report", recording, "--format", "json", "--at", moment)
    assert done.returncode == 0, done.stderr
    report: Report = json.loads(done.stdout)
    return report


def test_each_use_has_its_line_and_a_peak_that_went_is_said() -> None:
    with Target("uses") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        target.ask("map 200 40")
        target.ask("threads 48")
        await_snapshots(trace, 2)
        target.ask("take 300")
        eventually(lambda: most_read(trace.recording) >= 0.95 * 340 * MIB, "reading at the peak")
        target.ask("drop")
        target.ask("fragment 16")
        await_snapshots(trace, 2)
        report = trace.stop()
        peak = at(trace.recording, "peak")
    grown = changes(report)
    assert grown["mapped"] == pytest.approx(40 * MIB, abs=NEAR)
    assert grown["stacks"] == pytest.approx(48 * (MIB // 4), abs=NEAR)
    assert grown["live"] <= NEAR
    assert grown["retained"] == pytest.approx(16 * MIB, abs=NEAR)
    assert grown["unexplained"] == pytest.approx(0, abs=MIB)
    assert_closed(report)
    # Use is read anew only where memory is 5 % higher than at the last reading, which may have come in between.
    assert 0.95 * 300 * MIB - NEAR <= peaks(report)["live"] <= 300 * MIB + NEAR
    resident = report["resident"]
    assert resident["peak_bytes"] - resident["last_bytes"] > 200 * MIB
    assert 0 < resident["peak_at_s"] < report["window"]["duration_s"]
    assert peak["totals"]["heap"]["outstanding_bytes"] >= 300 * MIB
    assert report["totals"]["heap"]["outstanding_bytes"] < 10 * MIB
    threads = report["thread_growth"]
    assert threads["end"] == 49
    started = threads["started_by"][0]
    assert (started["threads"], started["functions"][0]) == (48, "start_threads")


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    require_memory_group()
    with MemoryGroup(160) as made:
        yield made


def test_limit_of_a_memory_group_is_reached_within_the_interval(group: MemoryGroup) -> None:
    """The target grows by 2 MiB each 100 ms until the kernel ends it; the trace sees a part of the way."""
    command = [*group.within, target_path("uses")]
    with Target("uses", command=command) as target:
        with Trace(target, options=["--interval", "0.2s", "--duration", "2.5s"]) as trace:
            target.send("pace 2048 100")
            report = trace.wait()
        assert target.wait() == -9
        ended_s = time.time()
    limit = next(each for each in report["limits"] if each["kind"] == "cgroup")
    assert limit["limit_bytes"] == 160 * MIB
    started_s = datetime.fromisoformat(report["window"]["started"]).timestamp()
    truth_s = ended_s - started_s - report["window"]["duration_s"]
    soonest_s, latest_s = limit["reached_in_ci95_s"]
    assert soonest_s <= truth_s <= latest_s
    assert report["limits"][0] == limit
