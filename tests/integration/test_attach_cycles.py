"""Probes that come and go: targets that check all of their blocks live through it.

NATIVELEAK_TEST_LONG=1 attaches and detaches 1,000 times.
"""

from __future__ import annotations

import contextlib
import signal

import pytest

from support import IS_LONG, Target, Trace, preload

pytestmark = pytest.mark.usefixtures("no_probe_leaks")

ALLOCATORS = ("", "jemalloc", "tcmalloc", "mimalloc")
"""Of the targets; "" is the C library's."""
N_TRACES = 250 if IS_LONG else 3
WAYS = (("--returns", "probes"), ("--returns", "exits"), ("--max-overhead", "2%"))


def steps(target: Target) -> int:
    """Steps that a target has made and checked so far."""
    target.send("steps")
    words = target.readline().split()
    assert words[0] == "STEPS", words
    return int(words[1])


@pytest.mark.timeout(120 + 20 * N_TRACES)
def test_attaching_and_detaching_harms_no_target():
    n_attached = 0
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(Target("checked", "paced", env=preload(name) if name else None)) for name in ALLOCATORS
        ]
        for i in range(N_TRACES):
            with Trace(*targets, options=[*WAYS[i % len(WAYS)], "--format", "none"], timeout_s=300.0) as trace:
                before = [steps(target) for target in targets]
                trace.process.send_signal(signal.SIGINT)
                assert trace.wait_end(300.0) == 0, trace.stderr
            for target, n_before in zip(targets, before, strict=True):
                assert steps(target) > n_before, f"trace {i}"
            n_attached += len(targets)
        for target in targets:
            target.process.stdin.close()
            assert target.wait() == 0
    print(f"attached and detached {n_attached} times: none of {len(targets)} targets harmed")
