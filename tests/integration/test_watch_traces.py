"""An alarm of a watch starts a trace; an OOM kill then ends both, and each has all up to that moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_group import MemoryGroup, require_memory_group
from support import Target, eventually, nativeleak, target_path

LIMIT_MIB = 200
_MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    require_memory_group()
    with MemoryGroup(LIMIT_MIB) as made:
        yield made


def test_kill_ends_watch_and_trace_with_all_up_to_that_moment(group: MemoryGroup, tmp_path: Path) -> None:
    output, errors = tmp_path / "last.jsonl", tmp_path / "errors"
    with Target("drips", command=[*group.within, target_path("drips")]) as target, errors.open("wb") as stderr:
        command = [sys.executable, "-m", "nativeleak", "watch", "-p", str(target.pid), "--every", "0.5s", "-o", output]
        with subprocess.Popen(
            [*command, "--cgroup-above", "40%", "--trace", "1h"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr
        ) as watch:
            eventually(lambda: "watching" in errors.read_text(), "the watch has begun")
            target.send(f"hold {LIMIT_MIB // 2}")
            eventually(
                lambda: f"nativeleak: tracing PID {target.pid} (drips)" in errors.read_text(), "the trace has begun"
            )
            (recording,) = tmp_path.glob("*.nlk")
            target.ask("keep 3000 7001")
            target.send(f"hold {LIMIT_MIB}")
            assert target.wait(60.0) == -signal.SIGKILL
            page = watch.communicate(timeout=60.0)[0].decode()
    said = errors.read_text()
    assert watch.returncode == 0, said
    assert "is used to" in said
    assert f"the trace has ended: nativeleak report {recording}" in said
    assert "The process has ended: killed by the OOM killer" in page
    end = json.loads(output.read_text().splitlines()[-1])
    assert (end["target_end"], end["reason"]) == ("oom-killed", "target ended")
    report = json.loads(nativeleak("report", recording, "--format", "json").stdout)
    assert report["target"]["end"] == "oom-killed"
    kept = [site for site in report["sites"] if "keep" in {frame["function"] for frame in site["frames"]}]
    assert sum(site["outstanding_bytes"] for site in kept) >= 7001 * 3000
    assert report["completeness"]["lost_allocations"] == 0
