"""A look joined with a trace: which call paths lost their blocks, and who holds the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support import Target, Trace
from support.waiting import eventually


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


def test_a_trace_with_holders_says_at_its_end_what_is_lost_and_who_holds_the_rest(tmp_path: Path) -> None:
    recording = tmp_path / "trace.nlk"
    with Target("held_traced") as target:
        with Trace(target, options=("--holders", "--budget", "30s"), output=recording) as trace:
            truth = target.go()
            trace.stop()
        report = json.loads(trace.stdout)
    causes = {each["name"]: each["traced"] for each in (*report["suspects"], *report["findings"]) if "traced" in each}
    seen = {
        name: (each["recorded_blocks"], each["blocks_in_use"], each["lost_blocks"], each["certainty"], each["held_by"])
        for name, each in causes.items()
    }
    lost, kept, mixed, freed = (truth[name] for name in ("lost", "kept", "mixed", "freed"))
    assert seen == {
        "lose_blocks": (lost, lost, lost, "proven", []),
        "keep_blocks": (kept, kept, 0, None, [{"holder": "g_kept in held_traced", "blocks": kept}]),
        "mix_blocks": (
            mixed,
            mixed,
            mixed // 2,
            "proven",
            [{"holder": "g_mixed in held_traced", "blocks": mixed // 2}],
        ),
        "free_later": (freed, freed, 0, None, [{"holder": "g_freed in held_traced", "blocks": freed}]),
    }
    (look,) = report["looks"]
    assert (look["process"], look["certainty"], look["why_not"]) == (target.pid, "proven", None)
    assert "looking who holds the blocks, for at most 30s" in trace.stderr
    command = [sys.executable, "-m", "nativeleak", "report", str(recording)]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "LEAK, proven: no pointer leads to 408 blocks" in page
    assert len(page.splitlines()) <= 40


def test_a_trace_whose_target_ended_reports_all_the_same_and_says_why_no_holders_are_known() -> None:
    with Target("held_traced") as target, Trace(target, options=("--holders",)) as trace:
        target.go()
        target.close()
        trace.wait()
    report = json.loads(trace.stdout)
    (look,) = report["looks"]
    assert look["why_not"] == f"held_traced (PID {target.pid}) ended during the trace"
    assert {each["name"] for each in report["findings"]} >= {"lose_blocks", "keep_blocks"}


def _looks_under_way(recording: Path) -> list[int]:
    """Processes that look at the end of the trace of this recording."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if os.fsencode(recording) in words and any(b"nativeleak.holders.after_trace" in word for word in words):
                found.append(int(entry.parent.name))
    return found


def test_ctrl_c_during_the_look_ends_the_look_alone_and_the_report_says_so(tmp_path: Path) -> None:
    recording = tmp_path / "trace.nlk"
    # The tracer leads a session, so that the whole group gets the signal, as from a terminal.
    options = ("--holders", "--budget", "60s")
    with Target("held_traced") as target, Trace(target, options=options, output=recording, within=["setsid"]) as trace:
        truth = target.go()
        trace.process.send_signal(signal.SIGINT)
        trace.wait_line("looking who holds the blocks")
        eventually(lambda: _looks_under_way(recording), "look at the end of the trace")
        os.killpg(trace.process.pid, signal.SIGINT)
        report = trace.wait()
        assert _looks_under_way(recording) == []
    (look,) = report["looks"]
    assert look["why_not"] == "the look was ended early, by Ctrl-C or another signal"
    assert "no holders: the look was ended early" in trace.stderr
    held = {each["name"]: each["outstanding_count"] for each in (*report["suspects"], *report["findings"])}
    assert held["lose_blocks"] == truth["lost"]
    page = subprocess.run(
        [sys.executable, "-m", "nativeleak", "report", str(recording)], check=True, capture_output=True, text=True
    ).stdout
    assert "the look was ended early" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.nlk"]


def test_a_look_that_takes_too_long_is_ended_and_the_report_says_so(tmp_path: Path) -> None:
    recording = tmp_path / "trace.nlk"
    # Python alone takes longer to start than this limit.
    code = (
        "import sys; from nativeleak.cli import after_trace, main; after_trace._GRACE_S = 0.02; sys.exit(main.main())"
    )
    options = ("--holders", "--budget", "0.01s")
    with Target("held_traced") as target:
        with Trace(target, options=options, output=recording, program=("-c", code)) as trace:
            truth = target.go()
            report = trace.stop()
        assert _looks_under_way(recording) == []
    (look,) = report["looks"]
    assert look["why_not"].startswith("the look took longer than ")
    held = {each["name"]: each["outstanding_count"] for each in (*report["suspects"], *report["findings"])}
    assert held["keep_blocks"] == truth["kept"]
