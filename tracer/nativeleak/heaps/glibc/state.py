"""malloc_state: glibc's arenas, found by the pattern of their bins.

Scope: the ring of arenas, the heaps of each, and malloc_par's counters. No symbol and no version is needed: each
layout is measured on the process itself and checked.

Source: malloc/malloc.c (struct malloc_state, struct malloc_par) and malloc/arena.c (heap_info) of glibc 2.17 to 2.42.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from nativeleak.heaps.memory import WORD_BYTES, HeapError, HeapMemory, Words
from nativeleak.process.procfs import PAGE_BYTES, MapEntry

HEAP_MAX_BYTES: Final = 64 << 20
"""Heaps of further arenas begin at multiples of it: twice DEFAULT_MMAP_THRESHOLD_MAX, on 64-bit machines."""

_LIBC: Final = re.compile(r"/libc[.-][^/]*$|/libc\.so[^/]*$")
_BIN_WORDS: Final = 254  # NBINS * 2 - 2
_BINMAP_WORDS: Final = 2
_N_FAST: Final = 10
_MIN_DELTA_WITH_FAST: Final = 96
_MAX_DELTA: Final = 160
_MAX_ARENAS: Final = 4096
_MAX_DATA_BYTES: Final = 64 << 20
_DEFAULT_MAPS_MAX: Final = 65536


@dataclass(frozen=True, slots=True)
class Arena:
    """One malloc_state.

    Attributes:
        start: Its address.
        bins: Address of its array of bins.
        end: First address behind it.
        is_main: It lies in libc's data, its memory in [heap].
        top: Address of the top chunk.
        following: Address of the next arena of the ring.
        system_bytes: Address space that it has.
        n_threads: Threads attached to it; None before glibc 2.23.
        fast: Heads of its fast lists; empty where this glibc has none.
        is_scattered: Its memory is not in one piece.
        heaps: (start, end of what is in use) of the heaps of an arena that is not the main one.
        header_bytes: Size of heap_info.
    """

    start: int
    bins: int
    end: int
    is_main: bool
    top: int
    following: int
    system_bytes: int
    n_threads: int | None
    fast: tuple[int, ...] = ()
    is_scattered: bool = False
    heaps: tuple[tuple[int, int], ...] = ()
    header_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counters of malloc_par.

    Attributes:
        break_start: Where the main heap begins.
        mapped_bytes: Sum of the blocks that have a mapping of their own.
        n_mapped: Their number.
    """

    break_start: int
    mapped_bytes: int
    n_mapped: int


@dataclass(frozen=True, slots=True)
class Glibc:
    """glibc's malloc in one process.

    Attributes:
        path: The file that holds it.
        data: (start, end) of its writable data.
        arenas: The main one first.
        parameters: None where they were not found.
    """

    path: str
    data: tuple[int, int]
    arenas: tuple[Arena, ...]
    parameters: Parameters | None


def find_glibc(memory: HeapMemory, maps: Sequence[MapEntry], exe: str) -> Glibc:
    """Arenas of glibc in a process.

    Args:
        memory: Of the process.
        maps: Its mappings.
        exe: Path of its executable, for programs that are linked statically.

    Raises:
        HeapError: No arena of glibc's was found, or their ring does not close.
    """
    for path, start, end in _data_ranges(maps, exe):
        window = memory.window(start, end)
        places = _bins_in(window.words, window.start)
        if not places:
            continue
        bins, _ = max(places, key=lambda place: place[1])
        arenas = _ring(memory, bins, (start, end), maps)
        return Glibc(path, (start, end), arenas, _parameters(window.words, maps))
    raise HeapError("walking the heap failed: no arena of glibc's malloc was found")


def _data_ranges(maps: Sequence[MapEntry], exe: str) -> list[tuple[str, int, int]]:
    """(path, start, end) of writable data with what follows of it without a file; libc's first, then the program's."""
    found = []
    for wanted in (lambda path: _LIBC.search(path) is not None, lambda path: path == exe):
        for index, entry in enumerate(maps):
            if not entry.perms.startswith("rw") or not wanted(entry.path):
                continue
            end = entry.end
            for after in maps[index + 1 : index + 2]:
                if after.start == end and after.perms.startswith("rw") and not after.path:
                    end = after.end
            if end - entry.start <= _MAX_DATA_BYTES:
                found.append((entry.path, entry.start, end))
    return found


def _bins_in(words: Words, base: int) -> list[tuple[int, int]]:
    """(address, number of empty bins) of all that looks like the bins of an arena.

    An empty bin points at itself. The last of the 127 is never used, so each pair that points at itself may be the
    last one: then 126 pairs before it point at themselves or at two aligned addresses, and ``system_mem`` and its
    maximum behind them are sizes.
    """
    n_words = len(words)
    if n_words < _BIN_WORDS + 16:
        return []
    targets = base + WORD_BYTES * np.arange(n_words - 1, dtype=np.uint64) - np.uint64(16)
    is_empty = (words[:-1] == targets) & (words[1:] == targets)
    is_pointer = (words > np.uint64(0xFFFF)) & (words < np.uint64(1 << 47)) & (words & np.uint64(15) == 0)
    fits = is_empty | (is_pointer[:-1] & is_pointer[1:])
    found = []
    for last in np.flatnonzero(is_empty).tolist():
        first = last - _BIN_WORDS + 2
        if first < 2 or last + 2 + 7 > n_words or not fits[first : last + 1 : 2].all():
            continue
        top = int(words[first - 2])
        behind = [int(word) for word in words[last + 2 + _BINMAP_WORDS :][:5]]
        if top % 16 or not behind[0] or behind[0] % 16 or behind[1] % 16:
            continue
        if _are_sizes(behind[3:5]) or _are_sizes(behind[2:4]):
            found.append((base + WORD_BYTES * first, int(is_empty[first : last + 1 : 2].sum())))
    return found


def _are_sizes(words: Sequence[int]) -> bool:
    """Whether they can be ``system_mem`` and ``max_system_mem``.

    They are whole pages, but in a static program, which takes its threads' data from the break first.
    """
    return PAGE_BYTES <= words[0] <= words[1] < 1 << 47 and words[0] % 16 == 0 and words[1] % 16 == 0


def _ring(memory: HeapMemory, bins: int, data: tuple[int, int], maps: Sequence[MapEntry]) -> tuple[Arena, ...]:
    """All arenas; each points at the next, the last one at the main arena."""
    main = _arena(memory, bins, bins)
    starts: list[int] = []
    place = main.following
    while not data[0] <= place < data[1]:
        if place in starts or len(starts) >= _MAX_ARENAS:
            raise HeapError("walking the heap failed: the ring of glibc's arenas does not close")
        starts.append(place)
        window = memory.window(place, place + PAGE_BYTES)
        found = _bins_in(window.words[(place - window.start) // WORD_BYTES :], place)
        if not found:
            raise HeapError(f"walking the heap failed: no arena at {place:#x}")
        place = _arena(memory, found[0][0], place).following
    delta = bins - place
    if not 16 <= delta <= _MAX_DELTA:
        raise HeapError(f"walking the heap failed: the main arena begins {delta} bytes before its bins")
    arenas = [_arena(memory, start + delta, start) for start in (place, *starts)]
    heaps = _heaps(memory, maps, {arena.start for arena in arenas[1:]})
    return (
        replace(arenas[0], is_main=True),
        *(_with_heaps(arena, heaps.get(arena.start, [])) for arena in arenas[1:]),
    )


def _arena(memory: HeapMemory, bins: int, start: int) -> Arena:
    delta = (bins - start) // WORD_BYTES
    words = memory.words(start - 2 * WORD_BYTES, delta + 2 + _BIN_WORDS + _BINMAP_WORDS + 5).tolist()[2:]
    head, tail = words[:delta], words[delta + _BIN_WORDS + _BINMAP_WORDS :]
    has_threads = _are_sizes(tail[3:5]) and tail[2] < 1 << 20
    if not has_threads and not _are_sizes(tail[2:4]):
        raise HeapError(f"walking the heap failed: the arena at {start:#x} has an impossible size")
    top = memory.words(bins - 2 * WORD_BYTES, 1).tolist()[0]
    has_fast = delta * WORD_BYTES >= _MIN_DELTA_WITH_FAST
    n_tail = 5 if has_threads else 4
    return Arena(
        start=start,
        bins=bins,
        end=bins + (_BIN_WORDS + _BINMAP_WORDS + n_tail) * WORD_BYTES,
        is_main=False,
        top=top,
        following=tail[0],
        system_bytes=tail[3] if has_threads else tail[2],
        n_threads=tail[2] if has_threads else None,
        fast=tuple(head[delta - 2 - _N_FAST : delta - 2]) if has_fast else (),
        is_scattered=bool(head and head[0] >> 32 & 2),
    )


def _heaps(memory: HeapMemory, maps: Sequence[MapEntry], arenas: set[int]) -> dict[int, list[tuple[int, int]]]:
    """(start, end) of the heaps by their arena; heaps that touch are one line of the mappings."""
    found: dict[int, list[tuple[int, int]]] = {}
    for entry in maps:
        if not arenas or not entry.perms.startswith("rw") or entry.path:
            continue
        for start in range(-(-entry.start // HEAP_MAX_BYTES) * HEAP_MAX_BYTES, entry.end, HEAP_MAX_BYTES):
            try:
                arena, _, n_bytes = memory.words(start, 3).tolist()
            except HeapError:
                continue
            if arena in arenas and 0 < n_bytes <= HEAP_MAX_BYTES and n_bytes % PAGE_BYTES == 0:
                found.setdefault(arena, []).append((start, start + n_bytes))
    return found


def _with_heaps(arena: Arena, heaps: list[tuple[int, int]]) -> Arena:
    first = next((start for start, end in heaps if start <= arena.start < end), None)
    if first is None:
        raise HeapError(f"walking the heap failed: the heap of the arena at {arena.start:#x} was not found")
    return replace(arena, heaps=tuple(heaps), header_bytes=arena.start - first)


def _parameters(words: Words, maps: Sequence[MapEntry]) -> Parameters | None:
    """malloc_par, by the one word of it that can be known: where [heap] begins.

    Before it are ``mmapped_mem`` and its maximum, before these four ints (five in some releases) with the number of
    such blocks, the most allowed and the most seen.
    """
    heap = next((entry for entry in maps if entry.path == "[heap]"), None)
    if heap is None:
        return None
    is_start = (words >= np.uint64(heap.start)) & (words < np.uint64(heap.start + PAGE_BYTES))
    for place in np.flatnonzero(is_start).tolist():
        if place < 12:
            continue
        for n_bytes, most, ints_end in (
            (int(words[place - 2]), int(words[place - 1]), place - 2),
            (int(words[place - 3]), int(words[place - 2]), place - 3),  # max_total_mem between, up to 2.25
        ):
            if n_bytes > most or n_bytes % PAGE_BYTES or most % PAGE_BYTES:
                continue
            ints = words[ints_end - 4 : ints_end].view(np.int32).tolist()
            for n_mapped, allowed, seen in zip(ints, ints[1:], ints[2:], strict=False):
                is_plausible = allowed == _DEFAULT_MAPS_MAX or (0 < seen <= allowed and n_mapped <= seen)
                if is_plausible and 0 <= n_mapped <= allowed and bool(n_mapped) == bool(n_bytes):
                    return Parameters(int(words[place]), n_bytes, n_mapped)
    return None
