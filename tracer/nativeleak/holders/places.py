"""Where pointers are looked for outside of the allocators, and who holds what is found there.

Scope: every mapping that can hold a pointer: anonymous memory, data of files that the process has written to, shared
anonymous memory. Files on disk that are mapped shared are not read. Below the stack pointer of a thread that sleeps
nothing counts.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from nativeleak.process.procfs import MapEntry

GLOBAL, STACK, ANONYMOUS, SHARED_MEMORY, JAVA, KERNEL, REGISTERS = (
    "global", "thread-stack", "anonymous", "shared", "java-root", "kernel", "registers",
)  # fmt: skip
"""Kinds of holders outside of the allocators."""

_RED_ZONE: Final = 128
_UNREADABLE: Final = ("[vvar", "[vdso]", "[vsyscall]")
_SHARED_PATHS: Final = ("/dev/shm/", "/SYSV", "/memfd:", "/dev/zero", "/anon_hugepage", "anon_inode:", "/[aio]")  # noqa: S108
_MAX_BSS: Final = 1 << 30


class Place(NamedTuple):
    """A range to be read.

    Attributes:
        start: First address.
        end: First address behind it.
        kind: One of the kinds above.
        name: Of the holder: a thread, a region; of a file its path.
        skips_files: Only pages that are not a file's any more.
    """

    start: int
    end: int
    kind: str
    name: str
    skips_files: bool = False


class Named(NamedTuple):
    """A range of which somebody knows more than the kernel's list of mappings says."""

    start: int
    end: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread.

    Attributes:
        tid: Its number.
        name: Its name.
        stack_pointer: None where unknown.
        sleeps: It slept when it was asked.
        words: Registers, or the arguments of its system call.
    """

    tid: int
    name: str
    stack_pointer: int | None
    sleeps: bool
    words: tuple[int, ...] = ()


def find_places(
    maps: Sequence[MapEntry],
    threads: Sequence[Thread],
    named: Iterable[Named] = (),
    taken: Iterable[tuple[int, int]] = (),
) -> list[Place]:
    """What is to be read, in the order of reading: data of files, stacks, anonymous and shared memory, the Java heap.

    Args:
        maps: The mappings of the process.
        threads: Its threads.
        named: Ranges with an owner; they give kind and name.
        taken: What is not to be read: memory and tables of allocators, and what another source of edges covers.
    """
    stacks = _stacks(maps, threads)
    cuts = sorted([*taken, *_dead(maps, stacks)])
    owners = sorted(named)
    found: list[Place] = []
    for index, entry in enumerate(maps):
        place = _place(maps, index, stacks)
        if place is None:
            continue
        for start, end in _without(entry.start, entry.end, cuts):
            found += _named_parts(place._replace(start=start, end=end), owners)
    order = {GLOBAL: 0, STACK: 1, ANONYMOUS: 2, SHARED_MEMORY: 3, JAVA: 4}
    return sorted(found, key=lambda each: (order[each.kind], each.start))


def _stacks(maps: Sequence[MapEntry], threads: Sequence[Thread]) -> Mapping[int, list[Thread]]:
    """Threads whose stacks lie in each mapping, by its place in the list."""
    starts = [entry.start for entry in maps]
    found: dict[int, list[Thread]] = {}
    for thread in threads:
        if thread.stack_pointer is None:
            continue
        index = bisect.bisect_right(starts, thread.stack_pointer) - 1
        if index >= 0 and thread.stack_pointer < maps[index].end and maps[index].inode == 0:
            found.setdefault(index, []).append(thread)
    return found


def _dead(maps: Sequence[MapEntry], stacks: Mapping[int, list[Thread]]) -> list[tuple[int, int]]:
    """What lies below the stack pointers of threads that sleep, where a mapping holds one stack only."""
    found = []
    for index, threads in stacks.items():
        entry = maps[index]
        if len(threads) > 1 or not threads[0].sleeps or entry.path == "[heap]":
            continue
        end = ((threads[0].stack_pointer or 0) - _RED_ZONE) // 8 * 8
        if end > entry.start:
            found.append((entry.start, end))
    return found


def _place(maps: Sequence[MapEntry], index: int, stacks: Mapping[int, list[Thread]]) -> Place | None:
    entry = maps[index]
    if entry.perms[0] != "r" or entry.path.startswith(_UNREADABLE):
        return None
    is_private = entry.perms[3] == "p"
    if index in stacks:
        names = sorted({thread.name for thread in stacks[index]})
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(stacks[index]) - 1} others"
        return Place(entry.start, entry.end, STACK, name)
    if entry.inode == 0 and is_private:
        before = maps[index - 1] if index else None
        is_bss = (
            before is not None
            and before.end == entry.start
            and before.inode != 0
            and before.perms[1] == "w"
            and before.perms[3] == "p"
            and entry.perms[1] == "w"
            and not entry.path
            and entry.end - entry.start <= _MAX_BSS
        )
        if is_bss and before is not None and before.path.startswith("/"):
            return Place(entry.start, entry.end, GLOBAL, before.path)
        name = entry.path.strip("[]").removeprefix("anon:") if entry.path else ""
        return Place(entry.start, entry.end, ANONYMOUS, name)
    if is_private:
        kind = SHARED_MEMORY if entry.path.startswith(_SHARED_PATHS) else GLOBAL
        return Place(entry.start, entry.end, kind, entry.path, skips_files=kind == GLOBAL)
    if entry.perms[1] == "w" and (entry.inode == 0 or entry.path.startswith(_SHARED_PATHS)):
        return Place(entry.start, entry.end, SHARED_MEMORY, entry.path)
    return None


def _without(start: int, end: int, cuts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of a range, in whole words."""
    left = []
    index = max(0, bisect.bisect_right(cuts, (start, start)) - 1)
    while index > 0 and cuts[index - 1][1] > start:
        index -= 1
    for low, high in cuts[index:]:
        if low >= end:
            break
        if high <= start:
            continue
        if low > start:
            left.append((start, low // 8 * 8))
        start = max(start, -(-high // 8) * 8)
    if start < end:
        left.append((start, end))
    return left


def _named_parts(place: Place, owners: Sequence[Named]) -> list[Place]:
    """A place cut by what is known of parts of it."""
    parts: list[Place] = []
    at = place.start
    for owner in owners[max(0, bisect.bisect_right(owners, (at,)) - 1) :]:
        if owner.start >= place.end:
            break
        low, high = max(at, owner.start), min(owner.end, place.end)
        if high <= low:
            continue
        if low > at:
            parts.append(place._replace(start=at, end=low))
        parts.append(Place(low, high, owner.kind, owner.name, place.skips_files))
        at = high
    if at < place.end:
        parts.append(place._replace(start=at))
    return parts
