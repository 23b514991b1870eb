"""A look joined with a trace: which call paths lost their blocks, and who holds the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import Target, Trace


def _holders(pid: int, recording: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "nativeleak",
        "holders",
        "-p",
        str(pid),
        "--with",
        str(recording),
        "--wait",
        "0.1s",
    ]
    return subprocess.run([*command, *options], check=False, capture_output=True, text=True)


def test_call_paths_of_a_trace_are_told_lost_or_held_and_by_whom(tmp_path: Path) -> None:
    recording = tmp_path / "trace.nlk"
    with Target("held_traced") as target, Target("held_traced") as other:
        with Trace(target, options=("--blocks",), output=recording) as trace:
            truth = target.go()
            trace.stop()
        target.ask("free")
        done = _holders(target.pid, recording, "--format", "json")
        stranger = _holders(other.pid, recording)
    assert done.returncode == 0, done.stderr
    traced = json.loads(done.stdout)["traced"]
    assert traced["blocks"] == sum(truth.values())
    causes = {each["name"]: each for each in traced["causes"]}
    seen = {
        name: (each["recorded_blocks"], each["blocks_in_use"], each["lost_blocks"], each["held_by"])
        for name, each in causes.items()
    }
    assert seen == {
        "lose_blocks": (307, 307, 307, []),
        "keep_blocks": (401, 401, 0, [{"holder": "g_kept in held_traced", "blocks": 401}]),
        "mix_blocks": (202, 202, 101, [{"holder": "g_mixed in held_traced", "blocks": 101}]),
        "free_later": (53, 0, 0, []),
    }
    assert causes["lose_blocks"]["lost_bytes"] == 307 * 211
    assert causes["lose_blocks"]["certainty"] == "proven"
    assert causes["keep_blocks"]["certainty"] is None
    assert causes["mix_blocks"]["lost_pct"] == 50.0
    assert stranger.returncode == 2
    assert f"process {other.pid} is not in it" in stranger.stderr


def test_a_recording_without_addresses_says_how_to_make_one_with_them(tmp_path: Path) -> None:
    recording = tmp_path / "trace.nlk"
    with Target("held_traced") as target:
        with Trace(target, output=recording) as trace:
            target.go()
            trace.stop()
        done = _holders(target.pid, recording)
    assert done.returncode == 2
    assert "it has no addresses of blocks" in done.stderr
    assert "nativeleak trace --blocks -p PID" in done.stderr


def test_addresses_are_refused_where_no_allocator_is_probed() -> None:
    command = [sys.executable, "-m", "nativeleak", "trace", "-p", "1", "--blocks", "--maps-only"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--blocks needs probes of the allocators" in done.stderr
