"""The same events as real system calls make them, held against what /proc/self/maps says afterwards.

The arena is at a low address, where the kernel looks for room last: nothing else of this process gets in between.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import subprocess
import sys
import tempfile

import pytest

from unit.ledger.spaces import DONTUNMAP, NONE, PAGE, RW, Entry, Pages

if sys.platform != "linux" or os.sysconf("SC_PAGE_SIZE") != PAGE:
    pytest.skip("needs Linux with pages of 4 KiB", allow_module_level=True)

ARENA, N_PAGES = 0x10_0000_0000 // PAGE, 199
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE = 1, 2, 0x10, 0x20, 0x100000
MAYMOVE, FIXED = 1, 2
FAILED = ctypes.c_void_p(-1).value

libc = ctypes.CDLL(None, use_errno=True)
for name in ("mmap", "mremap", "shmat"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]


def read_maps():
    entries = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            where, perms, _, _, _, *path = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in where.split("-"))
            entries.append(Entry(start, end, perms, path[0].rstrip() if path else None))
    return entries


def page_states(ranges):
    """Page of the arena to whether it is accessible."""
    return {
        page: accessible
        for start, end, accessible in ranges
        for page in range(max(start // PAGE, ARENA), min(end // PAGE, ARENA + N_PAGES))
    }


class Arena:
    """Makes system calls on pages of the arena, numbered from 0, and tells the map what the kernel side would."""

    def __init__(self):
        address = libc.mmap(
            ARENA * PAGE, N_PAGES * PAGE, NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0
        )
        if address != ARENA * PAGE:
            pytest.skip("the addresses of the arena are taken in this process")
        self.pages = Pages(*read_maps())
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the arena
        os.ftruncate(self.file.fileno(), N_PAGES * PAGE)

    def close(self):
        libc.munmap(ARENA * PAGE, N_PAGES * PAGE)
        self.file.close()

    def mmap(self, page, n_pages, prot=RW, *, shared=False, file=False, stack=1):
        flags = MAP_FIXED | (MAP_SHARED if shared else MAP_PRIVATE) | (0 if file else MAP_ANONYMOUS)
        address = libc.mmap((ARENA + page) * PAGE, n_pages * PAGE, prot, flags, self.file.fileno() if file else -1, 0)
        assert address == (ARENA + page) * PAGE, os.strerror(ctypes.get_errno())
        self.pages.mmap(ARENA + page, n_pages, prot, file=file, stack=stack, flags=flags)

    def munmap(self, page, n_pages, *, by=0):
        """``by`` bytes off the start of the page: the kernel refuses that."""
        self.pages.munmap(ARENA + page, n_pages)
        if libc.munmap((ARENA + page) * PAGE + by, n_pages * PAGE):
            self.pages.failed()
            return ctypes.get_errno()
        return 0

    def mremap(self, old, n_old, new, n_new, flags=MAYMOVE | FIXED, *, stack=2):
        self.pages.mremap_entry(ARENA + old, n_old)
        address = libc.mremap(
            (ARENA + old) * PAGE, n_old * PAGE, n_new * PAGE, flags, (ARENA + new) * PAGE if flags & ~MAYMOVE else None
        )
        if address == FAILED:
            self.pages.failed()
            return ctypes.get_errno()
        self.pages.mremap_exit(ARENA + old, n_old, address // PAGE, n_new, flags=flags, stack=stack)
        return 0

    def mprotect(self, page, n_pages, prot):
        """A mprotect that meets a hole fails half done; only the kernel knows how far it came."""
        if libc.mprotect((ARENA + page) * PAGE, n_pages * PAGE, prot) == 0:
            self.pages.mprotect(ARENA + page, n_pages, prot)
        else:
            assert ctypes.get_errno() == errno.ENOMEM
            self.pages.space.resync(read_maps())

    def shmat(self, page, n_pages, *, stack=3):
        segment = libc.shmget(0, n_pages * PAGE, 0o1600)
        if segment < 0:
            pytest.skip(f"no System V shared memory here: {os.strerror(ctypes.get_errno())}")
        address = libc.shmat(segment, (ARENA + page) * PAGE, 0)
        libc.shmctl(segment, 0, None)
        assert address == (ARENA + page) * PAGE, os.strerror(ctypes.get_errno())
        self.pages.shmat(ARENA + page, n_pages, stack=stack)

    def shmdt(self, page):
        self.pages.shmdt(ARENA + page)
        return libc.shmdt((ARENA + page) * PAGE)

    def check(self):
        found = page_states((piece.start, piece.end, piece.accessible) for piece in self.pages.space.pieces())
        real = page_states((line.start, line.end, line.perms[:3] != "---") for line in read_maps())
        assert found == real


@pytest.fixture
def arena():
    made = Arena()
    yield made
    made.close()


def test_munmap_and_mmap_over_agree_with_the_kernel(arena):
    arena.mmap(11, 31)
    arena.mmap(53, 17, file=True, stack=2)
    arena.check()
    assert arena.munmap(37, 23) == 0
    arena.check()
    arena.mmap(13, 7, NONE, stack=4)
    arena.check()
    assert arena.munmap(0, 13, by=7) == errno.EINVAL
    arena.check()
    assert arena.pages.held(1) == (19, 1, 0)
    assert arena.pages.held(2) == (10, 1, 0)
    assert arena.pages.held(4) == (0, 0, 7)


def test_mremap_agrees_with_the_kernel(arena):
    arena.munmap(0, N_PAGES)
    arena.mmap(11, 13)
    assert arena.mremap(11, 13, 11, 17, MAYMOVE) == 0
    arena.check()
    assert arena.mremap(11, 17, 11, 5, MAYMOVE) == 0
    arena.check()
    arena.mmap(16, 3, NONE, stack=4)
    assert arena.mremap(11, 5, 11, 7, 0) == errno.ENOMEM
    arena.check()
    assert arena.mremap(11, 5, 17, 7) == 0
    arena.check()
    assert arena.pages.held(2) == (7, 1, 0)
    assert arena.pages.held(4) == (0, 0, 1)


def test_mremap_dontunmap_and_length_zero_agree_with_the_kernel(arena):
    arena.mmap(11, 13)
    assert arena.mremap(11, 13, 31, 13, MAYMOVE | FIXED | DONTUNMAP) == 0
    arena.check()
    assert arena.pages.held(1) == (13, 1, 0)
    assert arena.pages.held(2) == (13, 1, 0)
    arena.mmap(61, 7, shared=True, stack=5)
    assert arena.mremap(61, 0, 71, 7, stack=6) == 0
    arena.check()
    assert arena.pages.held(5) == arena.pages.held(6) == (7, 1, 0)


def test_shared_memory_segments_agree_with_the_kernel(arena):
    arena.munmap(0, N_PAGES)
    arena.shmat(11, 13)
    arena.check()
    arena.mmap(15, 3)
    assert arena.shmdt(15) == -1
    assert arena.shmdt(11) == 0
    arena.check()
    assert arena.pages.held(3) == (0, 0, 0)
    arena.shmat(61, 7)
    assert arena.mremap(61, 7, 81, 7) == 0
    assert arena.shmdt(81) == 0
    arena.check()
    assert arena.pages.total() == (3, 1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_calls_agree_with_the_kernel(arena, seed):
    rng = random.Random(seed)
    for step in range(499):
        page = rng.randrange(N_PAGES - 23)
        n_pages, prot = rng.choice([1, 2, 3, 7, 23]), rng.choice([NONE, RW, 1])
        call = rng.choice(["mmap", "mmap", "munmap", "mremap", "mremap", "mprotect"])
        if call == "mmap":
            arena.mmap(page, n_pages, prot, file=rng.random() < 0.3, shared=rng.random() < 0.3, stack=step)
        elif call == "munmap":
            arena.munmap(page, n_pages, by=rng.choice([0, 0, 1]))
        elif call == "mprotect":
            arena.mprotect(page, n_pages, prot)
        else:
            flags = rng.choice([0, MAYMOVE | FIXED, MAYMOVE | FIXED, MAYMOVE | FIXED | DONTUNMAP])
            arena.mremap(page, n_pages, rng.randrange(N_PAGES - 23), rng.choice([1, n_pages, n_pages, 5]), flags)
        arena.check()
    assert arena.pages.space.resync(read_maps()).n_corrections == 0
    arena.check()


BREAK_PROGRAM = """
import ctypes, json
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_long]
steps = []
for grow in (0, 7 * 4096, 7919, 4096, -4096 - 7919, -3 * 4096):
    before = libc.sbrk(grow)
    now = libc.sbrk(0)
    heap = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]")]
    steps.append((before, now, int(heap[-1][1], 16)))
print(json.dumps(steps))
"""


def test_break_moved_by_a_real_program_agrees_with_the_kernel():
    # The allocator gets room at once, so that it does not move the break between two steps of the program.
    environment = {**os.environ, "MALLOC_TOP_PAD_": str(64 << 20)}
    done = subprocess.run(
        [sys.executable, "-c", BREAK_PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    steps = json.loads(done.stdout)
    pages = Pages(Entry(steps[0][0] - 64 * PAGE, steps[0][2], "rw-p", "[heap]"))
    outstanding = []
    for before, now, heap_end in steps:
        pages.brk(before)
        pages.brk(now)
        piece_end = max(piece.end for piece in pages.space.pieces())
        assert heap_end - PAGE < piece_end <= heap_end
        outstanding.append(sum(totals.outstanding_bytes for totals in pages.space.site_totals(0, 0.0)))
    assert outstanding == [0, 28672, 36591, 40687, 28672, 16384]
