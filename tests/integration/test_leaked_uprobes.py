"""A tracer that is killed while it attaches leaves no probe that the kernel cannot remove."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from nativeleak.doctor.leftovers import check_leaked_uprobes, judge_leaked_uprobes
from nativeleak.process.kernel_log import count_leaked_uprobes
from support import START_TIMEOUT_S, Target, Trace, eventually, own_libc, patient, places_taken, require

FUNCTIONS = ("malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc")
N = 4 * int(os.environ.get("NATIVELEAK_TEST_KILLS", "1"))
LATEST_S = 0.2
"""After the recording is there: in this time the tracer attaches to itself, to a child and to the target."""
SEED = random.randrange(1 << 32)


def test_tracer_killed_while_it_attaches_leaks_no_probe(tmp_path):
    """Shown by the places, which are ours alone: the kernel's log tells of all tracers of the machine."""
    moments = random.Random(SEED)
    env = own_libc(tmp_path)
    library = tmp_path / "libc.so.6"
    with Target("churn", 10**9, 2, 20011, env=env) as target:
        target.send("go")
        with Trace(target):
            assert places_taken(library, FUNCTIONS)
        for i in range(N):
            kill_tracer(target.pid, tmp_path / f"{i}.nlk", LATEST_S * moments.random())
        eventually(lambda: not places_taken(library, FUNCTIONS), f"no place is taken, seed {SEED}")


def kill_tracer(pid: int, recording: Path, after_s: float) -> None:
    """Start a tracer and kill it so many seconds after its recording is there."""
    command = [
        sys.executable,
        "-m",
        "nativeleak",
        "trace",
        "-p",
        str(pid),
        "-o",
        str(recording),
        "--max-overhead",
        "off",
    ]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + patient(START_TIMEOUT_S)
        while not recording.exists():
            assert tracer.poll() is None, "the tracer ended"
            assert time.monotonic() < deadline_s, f"no recording, seed {SEED}"
            time.sleep(0.0005)
        time.sleep(after_s)  # the moment is what is tried
    finally:
        tracer.send_signal(signal.SIGKILL)
        tracer.wait()


def test_doctor_names_probes_that_the_kernel_kept():
    require(count_leaked_uprobes() is not None, "the kernel's log cannot be read")

    def is_told() -> bool:
        """Other tracers of this machine may leak one between two looks at the log."""
        n = count_leaked_uprobes()
        return list(check_leaked_uprobes()) == ([judge_leaked_uprobes(n)] if n else [])

    eventually(is_told, "the number that the log has")
    assert f"names {7} that" in judge_leaked_uprobes(7).detail
