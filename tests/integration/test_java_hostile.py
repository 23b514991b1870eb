"""A JVM whose stacks are lies, and one that dies in the middle: the trace stands, and what is true in it stays true."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter

import pytest

from nativeleak.model import SiteTotals, Stack
from nativeleak.recording.reader import open_recording
from nativeleak.runtimes.hotspot.codecache import read_code_cache
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.layout import WalkerConfig, read_walker_config
from nativeleak.runtimes.hotspot.names import STALE, UNREADABLE
from support import Target, Trace, java_launcher, target_path
from targets.jdks import DEBIAN

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]

N_FORGED = int(os.environ.get("NATIVELEAK_TEST_FORGED", "1009"))
FIRST_BYTES = 100_003
N_HONEST = 31
MARKS = {STALE, UNREADABLE}
MAX_DEPTH = 200
SCRIBBLED_BYTES = 64 << 10
"""At the end of the code heap's memory, where the interpreter, which is all that runs, needs none."""


def places(config: WalkerConfig, scribbled: tuple[int, int]) -> list[int]:
    """Addresses at which the walker does something of its own; begin and end of a range at a time."""
    barrier = config.return_barrier or config.call_stub_return
    return [
        config.code_low,
        config.code_high,
        config.interpreter_low,
        config.interpreter_high,
        *scribbled,
        config.call_stub_return,
        config.call_stub_return,
        barrier,
        barrier,
        config.code_low - 8,
        config.code_high + 8,
    ]


def scribbles(vm: HotSpot) -> tuple[int, int, int, int]:
    """Where the code cache has room that nobody uses: address, bytes, and address and length of its segment map."""
    cache = read_code_cache(vm)
    heap = cache.heaps[0]
    space = vm.memory.u64(
        vm.memory.u64(vm.pointer("CodeCache::_heaps") + vm.structs.field("GrowableArray<int>::_data"))
    )
    high = vm.memory.u64(space + vm.structs.field("CodeHeap::_memory") + vm.structs.field("VirtualSpace::_high"))
    low = high - SCRIBBLED_BYTES
    assert cache.find_blob(vm.memory, low) is None
    segment = low - heap.low >> cache.segment_shift
    return low, SCRIBBLED_BYTES, heap.segmap + segment, SCRIBBLED_BYTES >> cache.segment_shift


def forged(trace: Trace) -> tuple[dict[int, int], list[Stack], list[tuple[SiteTotals, Stack]]]:
    """Size -> count of the blocks that came from made-up stacks, their stacks, and those of the honest ones."""
    with open_recording(trace.recording) as recording:
        sizes: dict[int, int] = {}
        lies, honest = [], []
        for site in recording.sites:
            stack = recording.stack(site.key.stack_key)
            names = [frame.function for frame in stack.frames] if stack else []
            if names[1:2] == ["leaf"]:
                lies.append(stack)
                size = site.allocated_bytes // site.allocated_count
                sizes[size] = sizes.get(size, 0) + site.allocated_bytes
            elif {"OwnStack.allocate", "jdk.internal.misc.Unsafe.allocateMemory0"} <= {*names}:
                honest.append((site, stack))
    return sizes, lies, honest


@pytest.mark.parametrize("release", [DEBIAN, "25"])
def test_java_stacks_that_are_lies_end_and_cost_no_count(release):
    command = [java_launcher(release), "-Xint", "-Xmx64m", "-cp", target_path("Forger"), "Forger"]
    with Target("Forger", target_path("libforge.so"), command=command) as target:
        with HotSpot.open(target.pid) as vm:
            config = read_walker_config(vm)
            low, n_bytes, segments, n_segments = scribbles(vm)
        target.ask(f"scribble 1009 {low} {n_bytes} {segments} {n_segments}")
        with Trace(target, options=["--min-size", 4096, "--max-depth", MAX_DEPTH]) as trace:
            words = " ".join(map(str, places(config, (low, low + n_bytes))))
            for part in range(2):
                target.ask(f"scribble {part} {low} {n_bytes} {segments} {n_segments}")
                target.ask(f"forge {part + 1} {FIRST_BYTES + part * N_FORGED} {N_FORGED} {words}")
            truth = target.ask(f"honest {N_HONEST}")
            report = trace.stop()
            sizes, lies, honest = forged(trace)
    n_bytes = sum(range(FIRST_BYTES, FIRST_BYTES + 2 * N_FORGED))
    assert sum(sizes.values()) == n_bytes
    assert 50 < max(len(stack.frames) for stack in lies) <= MAX_DEPTH + 1
    ends = Counter(stack.end for stack in lies)
    marks = Counter(frame.function for stack in lies for frame in stack.frames if frame.function in MARKS)
    print(f"{release}: {len(lies)} stacks, longest {max(len(stack.frames) for stack in lies)}; {ends}; {marks}")
    assert {"bad stack pointer", "unexpected Java frame", "unreadable"} <= {*ends}
    assert UNREADABLE in marks
    assert sum(site.allocated_count for site, _ in honest) == N_HONEST
    assert {stack.end for _, stack in honest} == {"root"}
    assert len(truth["stacks"]) == 1
    for _, stack in honest:
        names = [frame.function for frame in stack.frames]
        at = names.index("OwnStack.allocate")
        assert names[at : at + len(truth["stacks"][0]["frames"])] == truth["stacks"][0]["frames"]
    lost = report["completeness"]
    assert (lost["lost_allocations"], lost["lost_bytes"], lost["stack_collisions"]) == (0, 0, 0)


def test_java_machine_killed_while_its_classes_come_and_go_leaves_a_whole_report():
    command = [java_launcher(DEBIAN), "-Xmx256m", "-cp", target_path("Classes"), "Classes", "31"]
    with Target("Classes", command=command) as target, Trace(target, options=["--interval", "0.5s"]) as trace:
        target.send("go 99991")
        with pytest.raises(subprocess.TimeoutExpired):
            trace.process.wait(2.0)
        target.process.send_signal(signal.SIGKILL)
        report = trace.wait()
    assert report["targets"][0]["end"] == "killed"
    assert report["totals"]["heap"]["allocated_count"] > 1000
    assert report["completeness"]["lost_allocations"] == 0
