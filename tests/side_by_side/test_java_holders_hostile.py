"""Looks at Java heaps full of wrong things, and with little budget: they end, stay bounded, and say so."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from nativeleak.errors import NativeleakError
from nativeleak.runtimes.hotspot.heap.budget import Budget
from nativeleak.runtimes.hotspot.heap.graph import State
from nativeleak.runtimes.hotspot.heap.parts import FREE, read_parts
from nativeleak.runtimes.hotspot.heap.read import read_java_holders
from nativeleak.runtimes.hotspot.heap.text import holders_java_text
from nativeleak.runtimes.hotspot.jvm import HotSpot
from support import Target, java_launcher
from support.native_blocks import read_native_blocks
from support.target import target_path
from targets.jdks import DEBIAN

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]


@pytest.fixture
def target() -> Iterator[Target]:
    command = [java_launcher(DEBIAN), "-Xmx256m", "-XX:+UseSerialGC", "-cp", target_path("Holds"), "Holds", "8"]
    with Target("Holds", command=command) as running:
        running.go()
        yield running


def test_heap_of_garbage_ends_bounded_and_claims_nothing_wild(target: Target) -> None:
    """Random words, headers and references are written over the heap of a stopped JVM; then it is looked at."""
    starts, sizes = read_native_blocks(target.pid)
    os.kill(target.pid, signal.SIGSTOP)  # it would crash at the first step
    try:
        with HotSpot.open(target.pid) as vm:
            parts = [part for part in read_parts(vm, "Serial") if part.kind != FREE and part.top > part.start]
            head = vm.memory.read(parts[0].start, 4096)
        chance = random.Random(7)
        with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:
            for part in parts:
                for at in range(part.start, part.top - 8192, 12_288):
                    kind = chance.randrange(4)
                    if kind == 0:
                        data = chance.randbytes(4096)
                    elif kind == 1:  # what was a reference is one to somewhere else
                        data = head[chance.randrange(0, 256) * 8 :]
                    elif kind == 2:  # addresses of blocks, everywhere
                        data = np.resize(starts[chance.randrange(len(starts)) :][:512], 512).tobytes()
                    else:  # one header after the other
                        data = head[:16] * 256
                    memory.seek(at)
                    memory.write(data)
        result = read_java_holders(target.pid, starts, sizes, Budget(seconds=60))
    finally:
        target.process.kill()
        os.kill(target.pid, signal.SIGCONT)
    assert result.not_read is None
    assert result.completeness.n_passes <= 15
    assert result.n_blocks <= len(starts)
    assert len(result.groups) < 5000
    assert len(holders_java_text(result)) < 20_000
    # Words that point into blocks and are no field of an object were told apart.
    assert result.completeness.n_rejected > 1000


def test_budgets_end_a_look_early_and_nothing_is_garbage_then(target: Target) -> None:
    blocks = read_native_blocks(target.pid)
    for budget in (Budget(seconds=0.0), Budget(n_bytes=1 << 20), Budget(n_passes=1), Budget(n_edges=50)):
        result = read_java_holders(target.pid, *blocks, budget)
        assert result.completeness.cut_short is not None
        assert "note: ended early" in holders_java_text(result)
        assert {group.state for group in result.groups} <= {State.STRONG, State.OPEN, State.MOVING}


def test_few_passes_name_the_holders_without_the_way(target: Target) -> None:
    result = read_java_holders(target.pid, *read_native_blocks(target.pid), Budget(n_passes=1))
    codecs = [group for group in result.groups if group.holder == "Holds$Codec.nativeHandle"]
    assert sum(group.n_blocks for group in codecs) == 41 + 37


def test_no_blocks_hold_nothing(target: Target) -> None:
    result = read_java_holders(target.pid, np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    assert (result.groups, result.n_blocks, result.n_given) == ((), 0, 0)


def test_blocks_out_of_order_are_refused(target: Target) -> None:
    with pytest.raises(ValueError, match="in the order of their addresses"):
        read_java_holders(target.pid, np.array([2, 1], np.uint64), np.array([1, 1], np.uint64))


def test_process_without_a_jvm_is_refused() -> None:
    with pytest.raises(NativeleakError, match=r"no libjvm\.so is mapped"):
        read_java_holders(os.getpid(), np.zeros(0, np.uint64), np.zeros(0, np.uint64))


def test_process_that_is_gone_is_refused(target: Target) -> None:
    target.close()
    with pytest.raises(NativeleakError, match=str(target.pid)):
        read_java_holders(target.pid, np.zeros(0, np.uint64), np.zeros(0, np.uint64))
