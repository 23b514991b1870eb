"""The program that the doctor traces: two threads make a known number of calls. Imports nothing of ours.

Protocol: it prints ``ready``. For each line on stdin it does one round and prints ``done``: ``N_CALLS`` calls of malloc
and free in each of two threads, and ``N_MAPS`` calls of mmap and munmap. It exits at the end of stdin.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Final

N_THREADS: Final = 2
N_CALLS: Final = 101
BLOCK_BYTES: Final = 100_003
"""A prime size that no other caller requests, below the 128 KiB from which glibc maps blocks."""
N_MAPS: Final = 13
MAP_BYTES: Final = 101 * 65_536
"""Whole pages on machines with pages of up to 64 KiB."""

_PROT_NONE: Final = 0
_MAP_PRIVATE_ANONYMOUS: Final = 0x22


def allocate_and_free(libc: ctypes.CDLL) -> None:
    """One thread's calls; all blocks are alive at one time."""
    blocks = [libc.malloc(BLOCK_BYTES) for _ in range(N_CALLS)]
    for block in blocks:
        libc.free(block)


def map_and_unmap(libc: ctypes.CDLL) -> None:
    """The mappings: address space only, no memory."""
    for _ in range(N_MAPS):
        address = libc.mmap(None, MAP_BYTES, _PROT_NONE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        libc.munmap(address, MAP_BYTES)


def main() -> None:
    """Serve rounds until stdin ends."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.restype, libc.munmap.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        # Threads start while the probes are in place: kernels differ in whether they see such threads.
        others = [threading.Thread(target=allocate_and_free, args=(libc,)) for _ in range(N_THREADS - 1)]
        for other in others:
            other.start()
        allocate_and_free(libc)
        for other in others:
            other.join()
        map_and_unmap(libc)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
