"""Which of some blocks are gone: asked of the heap itself, from outside, in a process of its own.

    python -m nativeleak.heaps.audit PID < ADDRESSES > ANSWERS

Addresses are 64-bit words; the answer to each is one byte: 1 where the block is gone. The heap is walked twice. A block
is gone if neither walk found it in use, although both read the memory around it: nothing of a block that is never freed
looks like that. What no walk can tell counts as there: blocks with a mapping of their own, and other allocators.
Nothing is answered where the heap cannot be walked.

Caveat: an address that was given away again is in use.

Scope: glibc.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np

from nativeleak.errors import NativeleakError
from nativeleak.heaps.glibc.walk import walk_used
from nativeleak.heaps.memory import Flags, HeapMemory, Places
from nativeleak.process import procfs

_N_WALKS: Final = 2


def find_gone(pid: int, addresses: Places) -> Flags:
    """Whether each of some blocks is gone.

    Raises:
        NativeleakError: The heap cannot be walked.
    """
    gone = np.ones(len(addresses), np.bool_)
    exe = procfs.read_exe(pid)
    with HeapMemory(pid) as memory:
        for _ in range(_N_WALKS):
            gone &= _not_in_use(memory, exe, addresses)
    return gone


def _not_in_use(memory: HeapMemory, exe: str, addresses: Places) -> Flags:
    order = np.argsort(addresses)
    ordered = addresses[order]
    used = np.zeros(len(ordered), np.bool_)
    unread = np.zeros(len(ordered), np.bool_)

    def on_used(found: Places) -> None:
        places = np.searchsorted(ordered, found)
        places = places[places < len(ordered)]
        known = np.isin(ordered[places], found)
        used[places[known]] = True

    def on_unread(start: int, end: int) -> None:
        unread[np.searchsorted(ordered, start) : np.searchsorted(ordered, end)] = True

    ranges = walk_used(memory, procfs.read_maps(memory.pid), exe, on_used, on_unread)
    is_inside = np.zeros(len(ordered), np.bool_)
    for start, end in ranges:
        is_inside[np.searchsorted(ordered, start) : np.searchsorted(ordered, end)] = True
    gone = np.zeros(len(addresses), np.bool_)
    gone[order] = is_inside & ~used & ~unread
    return gone


def main() -> int:
    """Answer on standard output."""
    addresses = np.frombuffer(sys.stdin.buffer.read(), np.int64)
    try:
        gone = find_gone(int(sys.argv[1]), addresses)
    except NativeleakError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(gone.astype(np.uint8).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
