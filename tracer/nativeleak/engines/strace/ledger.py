"""Steps of strace into the address spaces of the targets.

A call that takes memory away is applied when it is entered, one that brings memory when it has come back: the kernel's
own order, since strace holds each thread at both ends of a call.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from nativeleak.engines.strace import lines
from nativeleak.engines.strace.arguments import CLONE, MAP, MREMAP, PROT, parse_flags, parse_number
from nativeleak.engines.strace.malloc_sizes import malloc_mark
from nativeleak.engines.strace.reader import Attached, Ended, Entered, Left, Mode, Named, Step, Superseded
from nativeleak.engines.strace.stacks import StackNamer
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess
from nativeleak.ledger.mapping_events import (
    BrkExit,
    MmapExit,
    MprotectExit,
    MremapEntry,
    MremapExit,
    MunmapEntry,
    ShmatExit,
    ShmdtEntry,
    UnmapFailed,
)
from nativeleak.model import Owner, TargetEnd
from nativeleak.runtimes.frames import owner_of_stack

_PR_SET_NAME: Final = ("PR_SET_NAME", "0xf", "15")
_FORKS: Final = frozenset({"fork", "vfork", "clone", "clone2", "clone3"})
_SHMGET_SIZE: Final = 1
_ADDRESSES: Final = 1 << 57
"""No process has more: five levels of page tables."""
_CLONE_FLAGS: Final = re.compile(r"\bflags=([^,}\s]{1,2048})")


@dataclass(slots=True)
class Target:
    """One process in strace's output.

    Attributes:
        process: What is known of it.
        namer: Names its stacks.
        read_name: Gives a thread's name, empty where it cannot be read.
        segment_bytes: Gives the length of what is mapped at an address, for a shared segment from before the window.
        is_from_start: The output may begin with the program's own start.
        segments: Shared memory made in the window: id -> bytes.
        runtime_stacks: Keys of stacks in which the target's runtime maps for itself.
    """

    process: TracedProcess
    namer: StackNamer
    read_name: Callable[[int], str] = lambda _tid: ""
    segment_bytes: Callable[[int], int] = lambda _address: 0
    is_from_start: bool = False
    segments: dict[int, int] = field(default_factory=dict)
    runtime_stacks: set[int] = field(default_factory=set)


class StraceLedger:
    """What the steps add up to.

    Args:
        target_of: The target that a thread belongs to; None for a thread of another process.

    Attributes:
        n_calls: Calls seen of the targets.
        n_useless: Calls whose arguments made no sense.
    """

    def __init__(self, target_of: Callable[[int], Target | None]) -> None:
        self.threads = ThreadTable()
        self.n_calls = 0
        self.n_useless = 0
        self.notes: list[tuple[str, str]] = []
        self._target_of = target_of
        self._names: dict[int, str] = {}
        self._modes: set[tuple[int, str]] = set()
        self._handlers: dict[str, Callable[[Target, Left], None]] = {
            "mmap": self._on_mmap,
            "mmap2": self._on_mmap,
            "old_mmap": self._on_mmap,
            "munmap": self._on_removal,
            "shmdt": self._on_removal,
            "mremap": self._on_mremap,
            "mprotect": self._on_mprotect,
            "pkey_mprotect": self._on_mprotect,
            "brk": self._on_brk,
            "shmget": self._on_shmget,
            "shmat": self._on_shmat,
            "execve": self._on_exec,
            "execveat": self._on_exec,
            "prctl": self._on_prctl,
        }

    def apply(self, step: Step) -> None:
        """Take one step in."""
        if isinstance(step, Attached):
            return
        target = self._target_of(step.tid)
        if target is None or (target.process.is_over and not isinstance(step, Ended)):
            return
        if isinstance(step, Left):
            self._on_left(target, step)
        elif isinstance(step, Entered):
            self._on_entered(target, step)
        elif isinstance(step, Ended):
            self._on_ended(target, step)
        elif isinstance(step, Named):
            self._rename(target, step.tid, step.comm)
        elif isinstance(step, Mode):
            self._on_mode(target, step)
        else:
            assert isinstance(step, Superseded)  # noqa: S101
            self._exec(target)

    def read_names(self, target: Target) -> None:
        """Look at the names of the target's threads anew: strace is not told of one that another thread gives."""
        for tid in self.threads.tids(target.process.slot):
            self.threads.rename(target.process.slot, tid, target.read_name(tid))

    # Steps

    def _on_entered(self, target: Target, step: Entered) -> None:
        numbers = _numbers(step.args)
        if step.name == "shmdt" and numbers[0] is not None:
            target.process.space.apply(ShmdtEntry(step.tid, numbers[0]))
        elif step.name != "shmdt" and None not in numbers[:2]:
            address, length = numbers[0] or 0, numbers[1] or 0
            entry = MunmapEntry if step.name == "munmap" else MremapEntry
            target.process.space.apply(entry(step.tid, address, length))

    def _on_left(self, target: Target, step: Left) -> None:
        self.n_calls += 1
        handler = self._handlers.get(step.name)
        if handler is None or step.value is None:
            return
        try:
            handler(target, step)
        except (ValueError, IndexError):
            self.n_useless += 1

    def _on_mmap(self, target: Target, step: Left) -> None:
        if step.failed:
            return
        length, prot, flags = _number(step.args[1]), parse_flags(step.args[2], PROT), parse_flags(step.args[3], MAP)
        owner = self._owner(target, step, malloc_mark(length, prot, flags, step.frames))
        is_file = not flags & MAP["MAP_ANONYMOUS"]
        event = MmapExit(step.tid, _value(step), length, prot, flags, is_file, *owner)
        target.process.space.apply(event)

    def _on_removal(self, target: Target, step: Left) -> None:
        if step.failed:
            target.process.space.apply(UnmapFailed(step.tid))

    def _on_mremap(self, target: Target, step: Left) -> None:
        if step.failed:
            target.process.space.apply(UnmapFailed(step.tid))
            return
        old, old_length, new_length = (_number(arg) for arg in step.args[:3])
        flags = parse_flags(step.args[3], MREMAP)
        owner = self._owner(target, step)
        event = MremapExit(step.tid, old, old_length, _value(step), new_length, flags, *owner)
        target.process.space.apply(event)

    def _on_mprotect(self, target: Target, step: Left) -> None:
        if not step.failed:
            address, length = _number(step.args[0]), _number(step.args[1])
            target.process.space.apply(MprotectExit(step.tid, address, length, parse_flags(step.args[2], PROT)))

    def _on_brk(self, target: Target, step: Left) -> None:
        target.process.space.apply(BrkExit(step.tid, _value(step), *self._owner(target, step)))

    def _on_shmget(self, target: Target, step: Left) -> None:
        size = _number(step.args[_SHMGET_SIZE])
        if size and not step.failed:  # 0 asks for a segment that exists, whatever its size
            target.segments[_value(step)] = size

    def _on_shmat(self, target: Target, step: Left) -> None:
        if step.failed:
            return
        length = target.segments.get(_number(step.args[0])) or target.segment_bytes(_value(step))
        if length:
            target.process.space.apply(ShmatExit(step.tid, _value(step), length, *self._owner(target, step)))

    def _on_exec(self, target: Target, step: Left) -> None:
        if not step.failed and target.is_from_start and self.n_calls == 1:
            target.process.space.forget_all()
        elif not step.failed:
            self._exec(target)

    def _on_prctl(self, target: Target, step: Left) -> None:
        if step.args[0].split()[0] in _PR_SET_NAME and not step.failed:
            name = step.args[1].removesuffix("...").strip('"')
            self._rename(target, step.tid, lines.unescape(name)[:15])

    # Threads and processes

    def _owner(self, target: Target, step: Left, mark: str = "") -> tuple[int, int, bool, float]:
        """Thread, stack, not inside of an allocator, time: the last fields of an event."""
        slot = target.process.slot
        name = self._names.pop(step.tid, "") or target.read_name(step.tid)
        thread = self.threads.uid(slot, step.tid, name)
        key = target.namer.key(step.frames, mark)
        owner = owner_of_stack([frame for frame in target.namer.frames(key) if frame.module is not None])
        if owner is Owner.RUNTIME and key not in target.runtime_stacks:
            target.runtime_stacks.add(key)
            target.process.space.reclassify_stack(key, owner)
        return thread, key, False, step.time_s

    def _rename(self, target: Target, tid: int, name: str) -> None:
        self.threads.rename(target.process.slot, tid, name)
        self._names[tid] = name

    def _on_ended(self, target: Target, step: Ended) -> None:
        target.process.space.forget_thread(step.tid)
        self.threads.end(target.process.slot, step.tid)
        self._names.pop(step.tid, None)
        if step.tid != target.process.info.pid:
            return
        target.process.is_end_told = True
        if step.signal:
            number = getattr(signal, step.signal, None)
            target.process.end(TargetEnd.KILLED, int(number) if number is not None else 0)
        else:
            target.process.end(TargetEnd.EXITED)

    def _exec(self, target: Target) -> None:
        target.process.end(TargetEnd.EXEC)
        pid = target.process.info.pid
        self.notes.append(("exec", f"PID {pid} replaced itself by another program: the window ends there"))

    def _on_mode(self, target: Target, step: Mode) -> None:
        seen = (target.process.slot, step.mode)
        if seen not in self._modes:
            self._modes.add(seen)
            self.notes.append(("mode", f"PID {target.process.info.pid} runs in {step.mode} bit mode"))


def new_thread(step: Step) -> tuple[int, bool] | None:
    """(id, whether it is a thread of the same process) of what a call has brought into the world; None for no such."""
    if not isinstance(step, Left) or step.name not in _FORKS or step.failed or not step.value:
        return None
    flags = _CLONE_FLAGS.search(" ".join(step.args))
    return step.value, bool(flags and parse_flags(flags[1], CLONE) & CLONE["CLONE_THREAD"])


def _numbers(args: tuple[str, ...]) -> list[int | None]:
    numbers = (parse_number(arg) for arg in args[:2])
    return [number if number is not None and 0 <= number < _ADDRESSES else None for number in numbers] + [None, None]


def _number(text: str) -> int:
    """Number of an argument.

    Raises:
        ValueError: It is none.
    """
    number = parse_number(text)
    if number is None or not 0 <= number < _ADDRESSES:
        raise ValueError(f"no address or length: {text[:40]!r}")
    return number


def _value(step: Left) -> int:
    if step.value is None or not 0 <= step.value < _ADDRESSES:
        raise ValueError("no address came back")
    return step.value
