"""SIGKILL at random moments, of the tracer and of its target; NATIVELEAK_TEST_KILLS=200 for more of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from support import (
    START_TIMEOUT_S,
    Target,
    bpf_objects,
    bpf_objects_alive,
    eventually,
    nativeleak,
    own_libc,
    patient,
    places_taken,
)
from tools.check_report import check

N = int(os.environ.get("NATIVELEAK_TEST_KILLS", "3"))
LATEST_S = 1.0
"""After the recording was made, every second time after the tracer has attached."""
SEED = random.randrange(1 << 32)
FUNCTIONS = ("malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc")
WORK = ("churn", 10**9, 2, 20011)
"""Two threads that allocate and free 20,011 times a second each, until they are killed."""


def start_tracer(target: Target, recording: Path, report: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--format", "json"]
    with report.open("wb") as output, recording.with_suffix(".err").open("wb") as errors:
        return subprocess.Popen(
            [*command, "--interval", "0.1s", "-o", str(recording)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
        )  # fmt: skip


def wait_for_moment(
    moment_s: float, tracer: subprocess.Popen[bytes], recording: Path, *, attached: bool
) -> dict[str, set[int]]:
    """Wait for a moment after the file was made, or after the tracer attached; the BPF objects that it held last."""
    ids: defaultdict[str, set[int]] = defaultdict(set)
    deadline_s = time.monotonic() + patient(START_TIMEOUT_S)
    while not recording.exists() and tracer.poll() is None:
        assert time.monotonic() < deadline_s, f"no recording, seed {SEED}"
        time.sleep(0.0005)
    if attached:
        errors = recording.with_suffix(".err")
        eventually(lambda: "tracing" in errors.read_text() or tracer.poll() is not None, f"attached, seed {SEED}")
    start_s = time.monotonic()
    while (left_s := moment_s - (time.monotonic() - start_s)) > 0 and tracer.poll() is None:
        time.sleep(min(left_s, 0.1))
        for kind, found in bpf_objects(tracer.pid).items():
            ids[kind] |= found
    return ids


def test_tracer_killed_at_any_moment_leaves_what_can_be_read_and_no_probe(tmp_path):
    moments = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    with Target(*WORK, env=own_libc(tmp_path)) as target:
        target.send("go")
        for i in range(N):
            recording, report = tmp_path / f"{i}.nlk", tmp_path / f"{i}.json"
            tracer = start_tracer(target, recording, report)
            # Each tenth at once: the file has to be whole when it is there.
            moment_s = moments.uniform(0.0, LATEST_S) if i % 10 else 0.0
            ids = wait_for_moment(moment_s, tracer, recording, attached=bool(i % 2))
            tracer.kill()
            tracer.wait()
            eventually(lambda ids=ids: not any(bpf_objects_alive(ids).values()), f"no probe is left, seed {SEED}", 60.0)
            outcomes[outcome_of_recording(recording)] += 1
        assert target.process.poll() is None, f"seed {SEED}"
        eventually(lambda: not places_taken(tmp_path / "libc.so.6", FUNCTIONS), f"no place is taken, seed {SEED}")
        target.process.kill()
    print(f"tracer killed {N} times: {dict(outcomes)}")
    assert outcomes.total() == N


def outcome_of_recording(recording: Path) -> str:
    """What became of it: a report, if only of a trace without a snapshot yet."""
    done = nativeleak("report", recording, "--format", "json")
    assert done.returncode == 0, f"seed {SEED}: {done.stderr}"
    report = json.loads(done.stdout)
    assert check(report) == [], f"seed {SEED}"
    assert report["target"]["comm"] == "churn", f"seed {SEED}"
    return "report" if report["window"]["snapshots"] else "report that no snapshot was made yet"


def test_target_killed_at_any_moment_of_its_trace_gives_a_report(tmp_path):
    outcomes = kill_targets(tmp_path, N, attached=True)
    print(f"target killed {N} times: {dict(outcomes)}")
    assert outcomes == {"report": N}


def test_target_killed_before_it_is_traced_gives_a_report_or_says_that_there_is_none(tmp_path):
    n = max(1, N // 10)
    outcomes = kill_targets(tmp_path, n, attached=False)
    print(f"target killed {n} times before: {dict(outcomes)}")
    assert outcomes.total() == n


def kill_targets(tmp_path: Path, n: int, *, attached: bool) -> Counter[str]:
    """Kill so many targets, from when the trace has begun on or from the appearance of its recording on."""
    moments = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    env = own_libc(tmp_path)
    for i in range(n):
        recording, report = tmp_path / f"{i}.nlk", tmp_path / f"{i}.json"
        with Target(*WORK, env=env) as target:
            target.send("go")
            tracer = start_tracer(target, recording, report)
            wait_for_moment(moments.uniform(0.0, LATEST_S if attached else 0.1), tracer, recording, attached=attached)
            target.process.send_signal(signal.SIGKILL)
            target.process.wait()
            try:
                status = tracer.wait(patient(60.0))
            finally:
                tracer.kill()
        errors = recording.with_suffix(".err").read_text()
        assert status in (0, 4), f"seed {SEED}: status {status}: {errors}"
        assert "Traceback" not in errors, f"seed {SEED}: {errors}"
        if status == 4:
            assert errors.startswith("nativeleak: "), errors
            assert not recording.exists(), f"seed {SEED}: {errors}"
            assert report.read_bytes() == b""
        else:
            made = json.loads(report.read_bytes())
            assert check(made) == [], f"seed {SEED}"
            assert made["target"]["end"] == "killed", f"seed {SEED}"
        outcomes["report" if status == 0 else "gone before the first snapshot"] += 1
    assert not places_taken(tmp_path / "libc.so.6", FUNCTIONS), f"seed {SEED}"
    return outcomes
