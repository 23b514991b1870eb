"""The demonstration: what it reports is what its program says, and no process is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from support import ANSWER_TIMEOUT_S, LineReader, nativeleak

_HOLDS = re.compile(r"demo:   thread (\S+) +holds .*\(([\d,]+) bytes of (heap|map): ([\d,]+) x")


def demo_targets() -> set[int]:
    """Processes that run the leaking program."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"demo_target.py" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def test_demo_report_holds_what_the_program_says(tmp_path):
    before = demo_targets()
    recording = tmp_path / "demo.nlk"
    done = nativeleak("demo", "--duration", "5s", "--format", "json", "-o", recording, timeout_s=ANSWER_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("demo: tracing a program of our own for 5s; its threads: ")
    truth = {name: (kind, int(n.replace(",", ""))) for name, n, kind, _ in _HOLDS.findall(done.stderr)}
    assert set(truth) == {"leaks-blocks", "leaks-mappings"}
    assert "thread tidy-worker    holds nothing: allocated" in done.stderr
    report = json.loads(done.stdout)
    sizes = {"leaks-blocks": 64 << 10, "leaks-mappings": 1 << 20}
    for name, (kind, n_bytes) in truth.items():
        # The interpreter's own small blocks apart: those are no multiple of the size.
        reported = sum(
            site["outstanding_bytes"]
            for site in report["sites"]
            if site["thread"]["name"] == name and site["kind"] == kind and not site["outstanding_bytes"] % sizes[name]
        )
        assert reported == n_bytes > 0
    assert recording.exists()
    assert demo_targets() <= before


def test_demo_interrupted_still_reports_and_leaves_nothing():
    before = demo_targets()
    process = subprocess.Popen(
        [sys.executable, "-m", "nativeleak", "demo", "--duration", "60s", "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdout is not None
    lines = LineReader(process.stderr.fileno())
    try:
        while not (lines.readline(ANSWER_TIMEOUT_S) or "").startswith("nativeleak: tracing"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        report = json.loads(process.stdout.read())
        assert process.wait(ANSWER_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
        lines.close()
        process.stderr.close()
        process.stdout.close()
    assert report["schema"] == "nativeleak.report/1"
    assert demo_targets() <= before
