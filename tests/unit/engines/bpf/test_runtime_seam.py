"""A runtime that nobody has heard of: its row is enough for its frames and the names of its threads."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.threads import OVERFLOW
from nativeleak.model import TargetInfo, ThreadInfo
from nativeleak.process import procfs
from nativeleak.process.check import check_target
from nativeleak.runtimes.registry import RUNTIMES, identify
from unit.engines.bpf.kernels import MadeUpKernel
from unit.runtimes import made_up

CHILD = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    kept = mmap.mmap(file.fileno(), 4096)
print("READY", flush=True)
sys.stdin.read()
"""
SLOT, UID, KEY = 3, 17, 0x1009
LONG_NAME = "a name of more than fifteen characters"


@pytest.fixture
def pid(tmp_path):
    library = tmp_path / made_up.LIBRARY
    library.write_bytes(bytes(4096))
    command = [sys.executable, "-c", CHILD, str(library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        yield process.pid
        process.communicate("")


class Traced:
    """A collector with one target, whose runtime is made up."""

    def __init__(self, pid, spec=made_up.SPEC):
        self.pid = pid
        self.stacks, self.notes = [], []
        runtimes = (*RUNTIMES, spec)
        self.kernel = MadeUpKernel()
        self.collector = Collector(
            self.kernel, self.stacks.extend, lambda *note: self.notes.append(note), lambda _: None, runtimes=runtimes
        )
        facts = check_target(pid)
        info = TargetInfo(SLOT, pid, facts.comm, facts.exe, identify(pid, procfs.read_maps(pid), runtimes))
        self.state = self.collector.add_target(SLOT, facts, info)
        self.collector.runtimes.take(self.state, self.kernel)
        self.collector.open_window(self.state)

    def put_stack(self, *frames):
        self.kernel.stacks.new[KEY] = (SLOT, [word for frame in frames for word in frame])
        self.collector.on_event(abi.Event(type=abi.EventType.STACK, slot=SLOT, stack=KEY))

    def on_thread(self, event, comm=b"python3", uid=UID):
        event = abi.Event(type=event, slot=SLOT, tid=self.pid, thread=uid)
        args = int.from_bytes(comm, "little")
        event.args[0], event.args[1] = args & (1 << 64) - 1, args >> 64
        self.collector.on_event(event)


@pytest.fixture
def traced(pid):
    traced = Traced(pid)
    yield traced
    traced.collector.close()


def test_runtime_frames_take_the_place_of_the_raw_ones(traced):
    traced.put_stack((made_up.LOW + 0x10, 1), (made_up.LOW + 0x20, 2))
    assert traced.collector.name_new_stacks() == 1
    (stack,) = traced.stacks
    assert [frame.function for frame in stack.frames] == ["inner_10", "outer_1", "inner_20", "outer_2"]
    assert traced.state.runtime.n_begun == 1


def test_runtime_is_shown_the_code_of_stacks_that_wait(traced):
    traced.put_stack((made_up.LOW + 0x10, 1), (made_up.LOW + 0x20, 2))
    traced.collector.look_at_code(within_s=60.0)
    assert traced.state.runtime.looked_at == [made_up.LOW + 0x10, made_up.LOW + 0x20]
    assert traced.collector.n_unnamed == 1


def test_runtime_threads_get_their_full_names_and_keep_them(traced):
    traced.on_thread(abi.EventType.THREAD)
    assert traced.collector.snapshot().threads == (OVERFLOW, ThreadInfo(UID, SLOT, traced.pid, LONG_NAME))
    assert traced.collector.snapshot().threads == ()
    traced.on_thread(abi.EventType.THREAD_EXIT)
    assert traced.collector.snapshot().threads == (ThreadInfo(UID, SLOT, traced.pid, LONG_NAME, alive=False),)


def test_thread_that_has_the_tid_of_an_ended_one_keeps_its_own_name(traced):
    traced.on_thread(abi.EventType.THREAD)
    traced.collector.runtimes.name_threads()
    traced.on_thread(abi.EventType.THREAD_EXIT)
    traced.on_thread(abi.EventType.THREAD, comm=b"another", uid=UID + 1)
    threads = {each.uid: each.name for each in traced.collector.snapshot().threads}
    assert threads == {0: OVERFLOW.name, UID: LONG_NAME, UID + 1: "another"}


def test_runtime_config_goes_into_its_map_again_when_it_is_complete(traced):
    traced.collector.runtimes.complete(traced.kernel)
    traced.collector.runtimes.complete(traced.kernel)
    assert traced.kernel.configs == [
        (SLOT, "madeups", made_up.CONFIG),
        (SLOT, "madeups", made_up.LATE_CONFIG),
    ]


def test_runtime_notes_and_counts_are_in_the_recording(traced):
    assert traced.notes == [
        ("madeup", f"not all of PID {traced.pid}'s Madeup frames can be shown: half of it is made up")
    ]
    traced.put_stack((made_up.LOW, 0))
    counters = traced.collector.snapshot().counters
    assert counters["resolved_frames"] == 2
    assert counters["unresolved_frames"] == 5 + 7
    assert counters["stale_runtime_frames"] == 5


def test_runtime_is_closed_with_its_target(traced):
    traced.collector.close()
    assert traced.state.runtime.is_closed


def test_runtime_that_cannot_be_read_leaves_the_trace_without_it(pid):
    traced = Traced(pid, dataclasses.replace(made_up.SPEC, open=made_up.refuse))
    assert traced.state.runtime is None
    assert traced.kernel.configs == []
    assert traced.notes[0][1].endswith("it is not that mad")
    traced.collector.close()
