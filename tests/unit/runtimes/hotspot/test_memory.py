"""Reading memory, of this very process."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from nativeleak.runtimes.hotspot.memory import MAX_READ_BYTES, TargetMemory, UnreadableError


@pytest.fixture
def memory():
    with TargetMemory(os.getpid()) as opened:
        yield opened


@pytest.fixture
def pages():
    area = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area))


def test_memory_numbers_and_texts_are_read(memory, pages):
    area, address = pages
    area[:16] = bytes.fromhex("fffeffffff7f0000 68616c6c6f000000")
    assert memory.u8(address) == 0xFF
    assert memory.u16(address) == 0xFEFF
    assert memory.u32(address) == 0xFFFFFEFF
    assert memory.i32(address) == -257
    assert memory.u64(address) == 0x7FFF_FFFF_FEFF
    assert memory.cstr(address + 8) == "hallo"
    assert memory.cstr(address + 8, 3) == "hal"


def test_memory_text_across_pages_is_whole(memory, pages):
    area, address = pages
    area[mmap.PAGESIZE - 3 : mmap.PAGESIZE + 4] = b"abcdef\0"
    assert memory.cstr(address + mmap.PAGESIZE - 3) == "abcdef"
    assert memory.read(address + mmap.PAGESIZE - 2, 3) == b"bcd"


def test_memory_is_that_of_the_first_look_until_flushed(memory, pages):
    area, address = pages
    area[0] = 1
    assert memory.u8(address) == 1
    area[0] = 2
    n_reads = memory.n_reads
    assert memory.u8(address) == 1
    assert memory.n_reads == n_reads
    memory.flush()
    assert memory.u8(address) == 2


def test_memory_that_was_never_touched_is_zeros_and_stays_untouched(memory):
    area = mmap.mmap(-1, 4 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    area[mmap.PAGESIZE] = 7
    area[3 * mmap.PAGESIZE] = 9
    data = memory.read(address, 4 * mmap.PAGESIZE)
    assert [data[page * mmap.PAGESIZE] for page in range(4)] == [0, 7, 0, 9]
    assert len(data) == 4 * mmap.PAGESIZE
    assert memory.u64(address + 8) == 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        entries = pagemap.read(4 * 8)
    assert [entry >> 7 for entry in entries[7::8]] == [0, 1, 0, 1]


def test_memory_that_is_swapped_out_is_unreadable_and_not_swapped_in(memory, pages, monkeypatch):
    _, address = pages
    monkeypatch.setattr(memory, "_flags", lambda _address, _n_bytes: bytes([0x40]))
    with pytest.raises(UnreadableError, match="swapped out"):
        memory.read(address, 8)
    assert memory.n_reads == 0


@pytest.mark.parametrize(
    ("address", "n_bytes"), [(0, 8), (-8, 8), (1 << 63, 8), ((1 << 64) - 1, 1), (4096, MAX_READ_BYTES + 1), (4096, -1)]
)
def test_memory_that_is_not_there_is_unreadable(memory, address, n_bytes):
    with pytest.raises(UnreadableError):
        memory.read(address, n_bytes)


def test_memory_of_no_process_is_unreadable():
    with pytest.raises(UnreadableError):
        TargetMemory(2**22 + 1)


def test_memory_closed_is_unreadable(memory, pages):
    memory.close()
    with pytest.raises(UnreadableError):
        memory.u8(pages[1])
