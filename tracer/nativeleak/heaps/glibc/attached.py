"""Which threads use which arena of glibc's malloc.

Scope: threads whose control block lies at the end of their stack's mapping, which is all but the main thread.

glibc keeps the arena of a thread in a variable of thread-local storage (``thread_arena`` in arena.c), below the
thread's control block. Where it lies there is in no symbol table of a distribution, so it is learnt: it is the place at
which the most threads have the address of an arena. The control block points at itself, twice (tcbhead_t in
sysdeps/x86_64/nptl/tls.h: ``tcb`` and ``self``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from nativeleak.heaps.memory import WORD_BYTES, HeapMemory

_TOP_BYTES: Final = 32 << 10
"""Of a stack's end that are looked at: the control block has 2.3 KiB, static storage of all libraries lies below it."""

_SELF_WORDS: Final = 2


def find_attached(
    memory: HeapMemory, stacks: Sequence[tuple[int, int, int]], arenas: Collection[int]
) -> dict[int, list[int]]:
    """Threads by the address of their arena; empty where several variables fit.

    Args:
        memory: Of the process.
        stacks: (start, end, tid) of the mapping of each thread's stack.
        arenas: Addresses of all arenas.
    """
    wanted = np.array(sorted(arenas), np.uint64)
    votes: Counter[int] = Counter()
    seen: list[tuple[int, dict[int, int]]] = []
    for start, end, tid in stacks:
        low = max(start, end - _TOP_BYTES)
        words = memory.window(low, end).words
        addresses = np.arange(low, low + len(words) * WORD_BYTES, WORD_BYTES, dtype=np.uint64)
        own = np.flatnonzero(words == addresses)
        # tcb at 0, self at 16: the second points at the first.
        blocks = [
            place
            for place in own.tolist()
            if place + _SELF_WORDS < len(words) and words[place + _SELF_WORDS] == addresses[place]
        ]
        if not blocks:
            continue
        block = blocks[-1]
        below = words[:block]
        places = np.flatnonzero(np.isin(below, wanted))
        found = {int(place) - block: int(below[place]) for place in places.tolist()}
        votes.update(found.keys())
        seen.append((tid, found))
    if not votes:
        return {}
    # A saved register may hold an arena's address too, in one thread or two; the variable has it in all that allocated.
    offset, n_votes = max(votes.items(), key=lambda item: (item[1], item[0]))
    if n_votes < len(seen) / 2:
        return {}
    attached: dict[int, list[int]] = {}
    for tid, found in seen:
        if offset in found:
            attached.setdefault(found[offset], []).append(tid)
    return attached
