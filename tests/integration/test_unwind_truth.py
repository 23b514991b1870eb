"""Every frame of every stack, equal to what the target's own unwinder sees in its own allocations.

The targets (``targets/unwind``) call glibc's backtrace() on the way to malloc and tell what they saw: how often which
stack, in which thread, of how many bytes. The recording must hold the same, address for address. Where unwind
information is missing or a signal came in between it may hold something else, if it says so.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from nativeleak.model import Kind, Stack
from nativeleak.recording import open_recording
from stacks import await_snapshots, copy_recording, is_marked, returned_to
from support import Target, Trace, nativeleak, require
from targets import build

MIN_STACKS = {"calls.c": 200, "calls.cc": 300, "coroutines.cc": 40, "calls.rs": 100}
"""Allocations that a run of a target makes at least: a target that does nothing is equal too."""

MAX_ROUNDS = 20
"""Of work until all tables are there: each takes two snapshots."""

N_SIGNALS = 400
"""In a round of the target ``signals``."""

LATE_S = 2.0
"""Until frames in a library that was loaded in the course of a trace are right: a second, on a machine at leisure."""


class Place(NamedTuple):
    """One distinct stack: process and thread, allocator function, return addresses from its caller to the root."""

    pid: int
    tid: int
    function: str
    callers: tuple[int, ...]


class Amount(NamedTuple):
    count: int
    n_bytes: int


@dataclass
class Comparison:
    """What was traced against what the targets saw.

    Attributes:
        expected: By the targets.
        found: By the trace, of stacks that are whole and nowhere marked as uncertain.
        marked: By the trace, of all others.
        stacks: The marked ones.
        n_unnamed: Sites whose stack is not in the recording: none at its end.
    """

    expected: dict[Place, Amount] = field(default_factory=dict)
    found: dict[Place, Amount] = field(default_factory=dict)
    marked: dict[Place, Amount] = field(default_factory=dict)
    stacks: dict[Place, Stack] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    n_unnamed: int = 0

    def expect(self, pid: int, answer: dict) -> None:
        """Take in what a target answered to ``go``."""
        assert answer["lost"] == 0
        for stack in answer["stacks"]:
            place = Place(pid, stack["tid"], stack["function"], tuple(stack["frames"]))
            add(self.expected, place, Amount(stack["count"], stack["bytes"]))

    def read(self, recording: Path) -> None:
        """Take in what was recorded."""
        with open_recording(recording) as opened:
            for site in opened.sites:
                if site.key.kind is not Kind.HEAP or not site.allocated_count:
                    continue
                thread = opened.threads[site.key.thread_uid]
                stack = opened.stack(site.key.stack_key)
                if stack is None:
                    self.n_unnamed += 1
                    continue
                self.names |= {frame.ip: f"{frame.function}+{frame.offset:#x}" for frame in stack.frames}
                callers = tuple(frame.ip for frame in returned_to(stack)[1:])
                pid = opened.targets[site.key.slot].pid
                place = Place(pid, thread.tid, stack.frames[0].function, callers)
                amount = Amount(site.allocated_count, site.allocated_bytes)
                add(self.marked if is_marked(stack) else self.found, place, amount)
                self.stacks[place] = stack

    @property
    def n_expected(self) -> int:
        return count(self.expected)

    def differences(self, limit: int = 3) -> str:
        """Some of what is not equal, with names, for a person."""
        lines = []
        for title, ours, theirs in (
            ("only in the trace", {**self.found, **self.marked}, self.expected),
            ("only in the target", self.expected, {**self.found, **self.marked}),
        ):
            wrong = [place for place, amount in ours.items() if theirs.get(place) != amount]
            lines.append(f"{title}: {len(wrong)} stacks")
            for place in wrong[:limit]:
                frames = [self.names.get(ip, hex(ip)) for ip in place.callers]
                stack = self.stacks.get(place)
                end = stack.end if stack else ""
                lines.append(f"  {place.function} {ours[place]} {theirs.get(place)} {end} < {' < '.join(frames)}")
        return "\n".join(lines)


PAUSE_S = 0.02
"""Between two calls into that library, so that the tracer has the processor too."""


def add(amounts: dict[Place, Amount], place: Place, amount: Amount) -> None:
    before = amounts.get(place, Amount(0, 0))
    amounts[place] = Amount(before.count + amount.count, before.n_bytes + amount.n_bytes)


def settle(trace: Trace, targets: Sequence[Target], made: Comparison) -> None:
    """Let the targets work until a round has no marked stack: all tables are there that they need."""
    before = -1
    for _ in range(MAX_ROUNDS):
        for target in targets:
            made.expect(target.pid, target.go())
        await_snapshots(trace, 2)
        now = Comparison()
        # It grows: read of one moment, or its tables would not fit each other.
        copy = trace.recording.with_name("moment.nlk")
        copy_recording(trace.recording, copy)
        now.read(copy)
        copy.unlink()
        # A stack may be a moment without its names, when there are many new ones.
        settled = count(now.marked) == before and not now.n_unnamed
        before = count(now.marked)
        if settled:
            return
    pytest.fail(f"stacks are still marked after {MAX_ROUNDS} rounds: {now.differences()}")


def compare(names: Sequence[str], arguments: Sequence[str] = ()) -> Comparison:
    """Trace these targets together while they do their work, first until all tables are there, then once more."""
    made = Comparison()
    with ExitStack() as stack:
        targets = [stack.enter_context(Target(name, *arguments)) for name in names]
        trace = stack.enter_context(Trace(*targets, options=["--interval", "0.2s"]))
        settle(trace, targets, made)
        for target in targets:
            made.expect(target.pid, target.go())
        trace.stop()
        made.read(trace.recording)
    return made


def assert_equal_where_not_marked(made: Comparison) -> None:
    """Nothing that is not marked is wrong, and nothing is missing but what is marked."""
    wrong = {
        place: amount
        for place, amount in made.found.items()
        if not covers(made.expected.get(place, Amount(0, 0)), amount)
    }
    assert made.n_unnamed == 0, "a stack was lost"
    assert wrong == {}, made.differences()
    assert count(made.found) + count(made.marked) == count(made.expected), made.differences()


def covers(more: Amount, less: Amount) -> bool:
    return more.count >= less.count and more.n_bytes >= less.n_bytes


def count(amounts: Mapping[Place, Amount]) -> int:
    return sum(amount.count for amount in amounts.values())


@pytest.fixture(autouse=True)
def _tables() -> None:
    require(platform.machine() == "x86_64", "unwind tables are made for x86-64 only")


def families() -> Iterator[tuple[str, list[str]]]:
    """Targets that are traced together: by compiler and language, and those that are linked or hardened otherwise."""
    for compiler in ("gcc", "g++", "clang", "clang++"):
        kind = [name for name in build.TARGETS if name.startswith(f"calls_{compiler}_O")]
        yield compiler, kind
    for variant in build.UNWIND_VARIANTS:
        yield variant, [f"calls_{compiler}_{variant}" for compiler in ("gcc", "g++")]
    yield "rustc", ["calls_rustc_O0", "calls_rustc_O2"]
    yield "coroutines", ["coroutines_gcc_O0", "coroutines_gcc_O2"]


@pytest.mark.parametrize(
    ("_family", "names"), list(families()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_frame_of_every_stack_equal_to_the_targets_own(_family, names, record_property):
    made = compare(names)
    assert_equal_where_not_marked(made)
    least = sum(MIN_STACKS[Path(build.TARGETS[name].source).name] for name in names)
    assert made.n_expected >= 3 * least
    # Those of the first rounds, before all tables were there.
    assert count(made.marked) < 2 * least, made.differences()
    n_frames = sum(amount.count * len(place.callers) for place, amount in made.found.items())
    record_property("stacks", count(made.found))
    record_property("frames", n_frames)
    equal = f"{count(made.found)} of {made.n_expected} stacks equal, {n_frames} frames"
    print(f"{len(names)} targets: {equal}, {count(made.marked)} marked before all tables were there")


def test_interrupted_anywhere_a_stack_is_equal_or_marked_and_equal_once_tables_are_full(record_property):
    made = compare(["signals"])
    assert_equal_where_not_marked(made)
    after_signal = count(made.found)
    record_property("after a signal", after_signal)
    print(f"{after_signal} of {made.n_expected} stacks after a signal equal, {count(made.marked)} marked")
    # All of the last round, at least.
    assert after_signal >= N_SIGNALS
    assert {made.stacks[place].end for place in made.found} == {"root"}


def test_unwind_information_for_debuggers_only_is_as_good():
    made = compare(["calls_gcc_debug_frame"], ["plain"])
    assert invented(made) == []
    assert count(made.marked) < MIN_STACKS["calls.c"], made.differences()
    assert count(made.found) + count(made.marked) == made.n_expected


def test_no_unwind_information_at_all_is_told_of_each_stack():
    with Target("calls_gcc_no_tables", "plain") as target, Trace(target) as trace:
        made = Comparison()
        made.expect(target.pid, target.go())
        report = trace.stop()
        made.read(trace.recording)
        text = " ".join(nativeleak("report", trace.recording, "--all").stdout.split())
    assert made.n_unnamed == 0, "a stack was lost"
    assert made.found == {}
    # The report names the module, and how much of the memory it makes doubtful.
    share = re.search(
        r"callers above calls_gcc_no_tables are guesses \(marked \[\?\]\) or missing, because .*?; ([0-9.]+) % of the",
        text,
    )
    assert share is not None, text
    n_doubtful = sum(
        site["outstanding_bytes"]
        for site in report["sites"]
        if "calls_gcc_no_tables" in {frame["module"] for frame in site["frames"]}
    )
    assert float(share[1]) == round(100 * n_doubtful / sum(site["outstanding_bytes"] for site in report["sites"]), 1)
    assert count(made.marked) == made.n_expected
    right = n_containing(made)
    print(f"without unwind information: {right} of {made.n_expected} stacks with all the target's own callers")


def test_library_loaded_in_the_course_of_a_trace_has_right_frames_soon():
    calls_s = []
    made = Comparison()
    with Target("loads_late", build.BIN / "late.so") as target, Trace(target) as trace:
        made.expect(target.pid, target.go())
        loaded_s = time.monotonic()
        while time.monotonic() < loaded_s + 2 * LATE_S:
            began_s = time.monotonic()
            made.expect(target.pid, target.go())
            calls_s.append(began_s - loaded_s)
            time.sleep(PAUSE_S)
        trace.stop()
        made.read(trace.recording)
    assert_equal_where_not_marked(made)
    in_library = [place for place in made.found if "late_call" in names_of(made, place)]
    n_right = sum(made.found[place].count for place in in_library)
    assert n_right >= sum(began_s >= LATE_S for began_s in calls_s), made.differences()
    print(f"right {calls_s[-n_right]:.2f} s after dlopen, {count(made.marked)} marked before")


def invented(made: Comparison) -> list[Place]:
    """Stacks that are not marked and lack callers that the target tells of: those that it has entered and not left."""
    return [place for place in made.found if not any(is_part(known, place) for known in made.expected)]


def n_containing(made: Comparison) -> int:
    """Allocations whose stack has all the callers that the target tells of."""
    amounts = {**made.found, **made.marked}
    return sum(amount.count for place, amount in amounts.items() if any(is_part(k, place) for k in made.expected))


def is_part(known: Place, found: Place) -> bool:
    """Whether the callers of one stack are in the other, in that order."""
    if known[:3] != found[:3] or known.callers[:1] != found.callers[:1]:
        return False
    callers = iter(found.callers)
    return all(ip in callers for ip in known.callers)


def names_of(made: Comparison, place: Place) -> set[str]:
    return {frame.function for frame in made.stacks[place].frames}
