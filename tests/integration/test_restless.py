"""A target that makes events without pause: the trace ends when it should, and what found no room is counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stacks import read_snapshot_count
from support import Target, Trace, eventually, nativeleak
from tools.check_report import check

KINDS = ("names", "maps")
PATIENCE_S = 2.0 * float(os.environ.get("NATIVELEAK_TEST_PATIENCE", "1"))
"""From the end of the duration to the last snapshot, on a machine whose cores the target keeps busy."""


@pytest.mark.parametrize("kind", KINDS)
def test_duration_holds_while_events_never_pause(kind, tmp_path):
    recording = tmp_path / "r.nlk"
    with Target("restless", kind) as target:
        done = nativeleak("trace", "-p", target.pid, "--duration", "3s", "-o", recording, "--format", "none")
    assert done.returncode == 0, done.stderr
    assert seconds_recorded(recording) < 3.0 + PATIENCE_S


@pytest.mark.parametrize("kind", KINDS)
def test_interrupt_is_served_while_events_never_pause(kind, tmp_path):
    recording = tmp_path / "r.nlk"
    with Target("restless", kind) as target:
        command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--format", "none"]
        tracer = subprocess.Popen([*command, "-o", str(recording), "--interval", "0.5s"], stderr=subprocess.DEVNULL)
        eventually(lambda: recording.exists() and read_snapshot_count(recording) >= 2, "two snapshots")
        began_s = time.monotonic()
        tracer.send_signal(signal.SIGINT)
        assert tracer.wait(timeout=60) == 0
        took_s = time.monotonic() - began_s
    assert took_s < 5 * PATIENCE_S


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_exact_while_events_never_pause(kind):
    with Target("restless", kind) as target, Trace(target, options=["--max-overhead", "off"]) as trace:
        target.go()
        truth = target.go()
        report = trace.stop()
    assert check(report) == []
    kept = [site for site in report["sites"] if any(f["function"] == "restless_kept" for f in site["frames"])]
    assert [(site["outstanding_bytes"], site["outstanding_count"]) for site in kept] == [(2 * 4093, 2)]
    assert truth["sites"][0]["outstanding_count"] == 2


def seconds_recorded(recording: Path) -> float:
    report = nativeleak("report", recording, "--format", "json")
    return float(json.loads(report.stdout)["window"]["duration_s"])
