"""Standard streams that the caller has closed, and a report whose process is killed: the recording is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import Target, eventually, nativeleak


def run_with(closed: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command by a shell that closes some of its streams."""
    command = [sys.executable, "-m", "nativeleak", *map(str, arguments)]
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_trace_with_closed_streams_records_and_reports(closed, tmp_path):
    recording = tmp_path / "r.nlk"
    with Target("rate", 97) as target:
        done = run_with(closed, "trace", "-p", target.pid, "--duration", "1s", "-o", recording)
    assert done.returncode == 0, done.stderr
    assert "bug" not in done.stderr
    assert ("standard output is closed" in done.stderr) == (closed == ">&-")
    assert done.stdout.startswith("rate (PID") == (">&-" not in closed.split())
    reported = run_with(closed, "report", recording)
    assert reported.returncode == 0, reported.stderr
    assert "bug" not in reported.stderr
    assert nativeleak("report", recording).stdout.startswith("rate (PID")


def test_report_that_is_killed_leaves_a_recording_and_says_how_to_report(tmp_path):
    recording = tmp_path / "r.nlk"
    with Target("rate", 97) as target:
        command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--duration", "1s"]
        tracer = subprocess.Popen([*command, "-o", str(recording)], stderr=subprocess.PIPE, text=True)
        eventually(lambda: reports_of(tracer.pid), "the process that makes the report")
        for pid in reports_of(tracer.pid):
            os.kill(pid, signal.SIGKILL)
        _, said = tracer.communicate(timeout=60)
    assert tracer.returncode == 1
    last = said.splitlines()[-2:]
    assert last[0] == "nativeleak: the report failed: its process was ended by Killed; it needs some 100 MiB of memory"
    assert last[1].endswith(f"nativeleak report {recording}")
    assert nativeleak("report", recording).stdout.startswith("rate (PID")


def reports_of(pid: int) -> list[int]:
    """Children of a tracer that make its report."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"\0report\0" in Path(f"/proc/{child}/cmdline").read_bytes()]
