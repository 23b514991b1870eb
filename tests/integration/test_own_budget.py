"""What the tracer itself may take: memory, places in front of the OOM killer, time of the target."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nativeleak.engines.bpf.budget.memory import SCRATCH_BYTES, read_possible_cpus
from nativeleak.engines.bpf.kernel.abi import SCRATCH_PER_CPU
from stacks import await_snapshots
from support import Target, TargetError, Trace, bpf_objects, nativeleak, require_program

KEPT_BYTES = 1009
LEAST_PRIORITY = 19
"""Of setpriority(2): tests may run under nice(1) themselves."""


def test_memory_bound_holds_and_what_found_no_room_is_counted() -> None:
    bound_mib = 72
    with Target("phases") as target, Trace(target, options=["--max-memory", f"{bound_mib}M"]) as trace:
        target.ask("keep 1 99991")
        target.ask("keep 2 99991")
        trace.process.send_signal(signal.SIGINT)
        assert trace.wait_end() == 1
        report = trace.all_sites()
    # The report's process is inside the same bound, and its libraries alone do not fit.
    assert f"no report was made: it takes at least 80 MiB, more than --max-memory {bound_mib} MiB" in trace.stderr
    assert f"here or elsewhere: nativeleak report {trace.recording}\n" in trace.stderr
    heap, completeness, overhead = report["totals"]["heap"], report["completeness"], report["overhead"]
    assert completeness["lost_allocations"] > 0
    assert heap["outstanding_count"] + completeness["lost_allocations"] == 2 * 99991
    assert heap["outstanding_bytes"] + completeness["lost_bytes"] == 2 * 99991 * KEPT_BYTES
    assert overhead["kernel_memory_bytes"] == completeness["kernel_map_bytes"] > 0
    assert overhead["tracer_cpu_s"] > 0
    assert overhead["tracer_max_rss_bytes"] + overhead["kernel_memory_bytes"] <= bound_mib << 20


def test_walks_take_what_the_memory_bound_leaves_for_them_on_each_processor() -> None:
    require_program("bpftool")
    with Target("phases") as target, Trace(target) as trace:
        held = bpf_objects(trace.process.pid)["map"]
        shown = subprocess.run(["bpftool", "-j", "map", "show"], capture_output=True, text=True, check=True).stdout
        trace.stop()
    [scratch] = [each for each in json.loads(shown) if each["id"] in held and each.get("name") == "scratch"]
    assert scratch["bytes_value"] == SCRATCH_BYTES
    assert scratch["max_entries"] == SCRATCH_PER_CPU * read_possible_cpus()


def test_memory_bound_that_holds_nothing_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with Target("phases") as target:
        done = nativeleak("trace", "-p", target.pid, "--max-memory", "8M", "-o", tmp_path / "x.nlk")
    assert done.returncode == 2
    assert re.search(
        r"^nativeleak: --max-memory 8 MiB is too little: .*\n  give at least --max-memory \d+M", done.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["strace", "pmap"])
def test_memory_bound_of_an_engine_without_bpf_is_refused_where_the_recorder_does_not_fit(
    engine: str, tmp_path: Path
) -> None:
    require_program("strace")
    with Target("phases") as target:
        options = ["--engine", engine, "--max-memory", "1M", "-o", tmp_path / "x.nlk"]
        done = nativeleak("trace", "-p", target.pid, *options)
    assert done.returncode == 2
    assert re.search(
        r"^nativeleak: --max-memory 1 MiB is too little: .*\n  give at least --max-memory \d+M", done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_memory_near_the_bound_of_strace_leaves_the_sums_exact() -> None:
    require_program("strace")
    with Target("maps") as target:
        # The least that it takes now: a process is not equally large each time, so the first answer may be refused too.
        least = "1"
        for _ in range(5):
            options = ["--engine", "strace", "--max-memory", f"{least}M", "--interval", "0.1s"]
            trace = Trace(target, options=options, attaches=False)
            with contextlib.suppress(TargetError):
                trace.wait_attached()
                break
            trace.close()
            [least] = re.findall(r"give at least --max-memory (\d+)M", trace.stderr)
        # strace beside the recorder brings both near to the bound from the first snapshot on.
        with trace:
            await_snapshots(trace, 2)
            truth = target.go()
            trace.process.send_signal(signal.SIGINT)
            assert trace.wait_end() == 1  # the report does not fit into the bound
            report = json.loads(nativeleak("report", trace.recording, "--format", "json").stdout)
    assert "near to --max-memory" in trace.stderr
    assert "new call sites are no longer told apart" in trace.stderr
    wanted = sum(site["outstanding_bytes"] for site in truth["sites"] if site["kind"] == "map")
    assert report["totals"]["map"]["outstanding_bytes"] == wanted
    assert [row["frames"] for row in report["sites"] if row["kind"] == "map"] == [[]]


def test_tracer_is_taken_by_the_oom_killer_before_its_target() -> None:
    with Target("phases") as target:
        Path(f"/proc/{target.pid}/oom_score_adj").write_text("317")
        with Trace(target) as trace:
            assert int(Path(f"/proc/{trace.process.pid}/oom_score_adj").read_text()) == 318
            trace.stop()


@pytest.mark.parametrize(("budget", "steps"), [("5%", 10), ("off", 0)])
def test_tracer_with_a_budget_leaves_the_processor_to_its_target_first(budget: str, steps: int) -> None:
    with Target("phases") as target, Trace(target, options=["--max-overhead", budget, "--interval", "0.2s"]) as trace:
        # The work along the way has begun once there is a snapshot.
        await_snapshots(trace, 1)
        wanted = min(LEAST_PRIORITY, os.getpriority(os.PRIO_PROCESS, 0) + steps)
        assert os.getpriority(os.PRIO_PROCESS, trace.process.pid) == wanted
        trace.stop()


def test_probes_of_the_allocator_are_gone_at_once() -> None:
    with Target("phases") as target, Trace(target) as trace:
        report = trace.stop()
    notes = [note["text"] for note in report["notes"] if note["text"].startswith("detached")]
    [took_ms] = [int(number) for note in notes for number in re.findall(r"in (\d+) ms", note)]
    # 50 ms a grace period of the kernel here; other tests may share the machine.
    assert took_ms < 500


def test_exit_of_the_target_is_not_delayed() -> None:
    with Target("phases") as target, Trace(target) as trace:
        target.ask("keep 1 1009")
        started_s = time.monotonic()
        target.send("quit")
        assert target.wait() == 0
        assert time.monotonic() - started_s < 1
        assert trace.wait()["target"]["end"] == "exited"
