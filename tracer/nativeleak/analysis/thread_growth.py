"""The number of threads over the trace, and the call paths that started them.

A thread's stack is mapped by the thread that starts it: the sites whose stack passes through a function that creates
threads hold the stacks that are alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nativeleak.analysis.growth import Growth, Verdict, course
from nativeleak.model import Frame, Kind
from nativeleak.recording import Recording

_CREATORS: Final = ("pthread_create", "__pthread_create", "thrd_create")
_MIN_ADDED: Final = 8
"""Threads fewer than these are a pool that starts, not a finding."""


@dataclass(frozen=True, slots=True)
class Starter:
    """A call path that started threads which are alive.

    Attributes:
        frames: Leaf first, from the caller of the function that creates threads.
        n_threads: Stacks of it that are mapped at the end.
        resident_bytes: What of them is in memory; None where it was not measured.
        stack_keys: Keys of the stacks of its sites.
    """

    frames: tuple[Frame, ...]
    n_threads: int
    resident_bytes: int | None
    stack_keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ThreadGrowth:
    """The number of threads of all targets.

    Attributes:
        growth: Threads a second, with interval and verdict.
        starters: Most threads first.
    """

    start: int
    end: int
    peak: int
    growth: Growth
    starters: tuple[Starter, ...]

    @property
    def is_finding(self) -> bool:
        """Whether the number grows, and by more than a pool that starts."""
        return self.growth.verdict is Verdict.GROWING and self.end - self.start >= _MIN_ADDED


def thread_growth(recording: Recording) -> ThreadGrowth | None:
    """How the number of threads went; None where it was not recorded."""
    counts = [
        (recording.snapshots[number].elapsed_s, sum(process.n_threads for process in processes))
        for number, processes in sorted(recording.memory.processes.items())
        if number < len(recording.snapshots)
    ]
    if not counts:
        return None
    times, numbers = [each[0] for each in counts], [each[1] for each in counts]
    growth = course(times, numbers)
    return ThreadGrowth(numbers[0], numbers[-1], max(numbers), growth, _starters(recording))


def _starters(recording: Recording) -> tuple[Starter, ...]:
    """Call paths of equal functions are one: JIT states and addresses do not part them."""
    found: dict[tuple[str, ...], Starter] = {}
    sites = recording.site_columns
    for position, kind in enumerate(sites.kind):
        n_outstanding = sites.allocated_count[position] - sites.freed_count[position]
        if kind != Kind.MAP.value or n_outstanding <= 0:
            continue
        key = sites.stack_key[position]
        stack = recording.stack(key)
        frames = stack.frames if stack is not None else ()
        at = next((i for i, frame in enumerate(frames) if frame.function.split("@")[0] in _CREATORS), None)
        if at is None:
            continue
        path = tuple(frame.function for frame in frames[at + 1 :])
        before = found.get(path, Starter(frames[at + 1 :], 0, None, ()))
        resident = sites.resident_bytes[position]
        if resident is not None or before.resident_bytes is not None:
            resident = (resident or 0) + (before.resident_bytes or 0)
        found[path] = Starter(
            before.frames,
            before.n_threads + n_outstanding,
            resident,
            (*before.stack_keys, key),
        )
    return tuple(sorted(found.values(), key=lambda starter: -starter.n_threads))
