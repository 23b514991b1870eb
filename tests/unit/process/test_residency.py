"""Resident bytes of mappings of the test's own process, counted to the page."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.process.procfs import PAGE_BYTES, TargetGoneError
from nativeleak.process.residency import ResidencyReader

N_PAGES = 10_007


@pytest.fixture
def region() -> Iterator[tuple[mmap.mmap, int]]:
    """Private memory without huge pages, none of it touched: (mapping, address)."""
    memory = mmap.mmap(-1, N_PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    first = ctypes.c_char.from_buffer(memory)
    yield memory, ctypes.addressof(first)
    del first
    memory.close()


@pytest.fixture(params=[True, False], ids=["scan", "entries"])
def reader(request: pytest.FixtureRequest) -> Iterator[ResidencyReader]:
    with ResidencyReader(os.getpid(), use_scan=request.param) as reader:
        if request.param and not reader.uses_scan:
            pytest.skip("this kernel has no PAGEMAP_SCAN (6.7 on)")
        yield reader


def test_resident_bytes_untouched_region_has_none(reader: ResidencyReader, region: tuple[mmap.mmap, int]) -> None:
    _, address = region
    assert reader.resident_bytes([(address, address + N_PAGES * PAGE_BYTES)]) == [0]


def test_resident_bytes_touched_pages_are_counted_exactly(
    reader: ResidencyReader, region: tuple[mmap.mmap, int]
) -> None:
    memory, address = region
    for page in range(0, N_PAGES, 3):  # 3,336 runs of one page: more than one answer of the kernel holds
        memory[page * PAGE_BYTES] = 1
    whole = (address, address + N_PAGES * PAGE_BYTES)
    first_ten = (address, address + 10 * PAGE_BYTES)
    hole = (address + PAGE_BYTES, address + 3 * PAGE_BYTES)
    assert reader.resident_bytes([whole, first_ten, hole]) == [3336 * PAGE_BYTES, 4 * PAGE_BYTES, 0]


def test_resident_bytes_runs_that_fill_an_answer_of_the_kernel_are_counted_once(
    reader: ResidencyReader, region: tuple[mmap.mmap, int]
) -> None:
    memory, address = region
    for page in range(8192):
        if page % 4 != 3:  # 2,048 runs, twice as many as one answer holds
            memory[page * PAGE_BYTES] = 1
    whole = (address, address + 8192 * PAGE_BYTES)
    assert reader.resident_bytes([whole]) == [6144 * PAGE_BYTES]
    runs = reader.present_runs(*whole)
    assert len(runs) == 2048
    assert all(end - start == 3 * PAGE_BYTES for start, end in runs)


def test_resident_bytes_after_dontneed_falls(reader: ResidencyReader, region: tuple[mmap.mmap, int]) -> None:
    memory, address = region
    memory[: 101 * PAGE_BYTES] = b"x" * (101 * PAGE_BYTES)
    memory.madvise(mmap.MADV_DONTNEED, 0, 60 * PAGE_BYTES)
    assert reader.resident_bytes([(address, address + N_PAGES * PAGE_BYTES)]) == [41 * PAGE_BYTES]


def test_resident_bytes_ends_inside_pages_are_rounded_outwards(
    reader: ResidencyReader, region: tuple[mmap.mmap, int]
) -> None:
    memory, address = region
    memory[: 3 * PAGE_BYTES] = b"x" * (3 * PAGE_BYTES)
    assert reader.resident_bytes([(address + PAGE_BYTES - 1, address + PAGE_BYTES + 1)]) == [2 * PAGE_BYTES]


def test_resident_bytes_senseless_ranges_have_none(reader: ResidencyReader) -> None:
    ranges = [(5, 5), (PAGE_BYTES, 0), (0, PAGE_BYTES), (1 << 70, 1 << 71), (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)]
    assert reader.resident_bytes(ranges) == [0, 0, 0, 0, 0]


def test_resident_bytes_page_only_read_is_not_resident_by_scan(region: tuple[mmap.mmap, int]) -> None:
    memory, address = region
    assert memory[7 * PAGE_BYTES] == 0
    with ResidencyReader(os.getpid()) as reader:
        if not reader.uses_scan:
            pytest.skip("this kernel has no PAGEMAP_SCAN (6.7 on)")
        assert reader.resident_bytes([(address, address + N_PAGES * PAGE_BYTES)]) == [0]


@pytest.mark.parametrize("use_scan", [True, False])
def test_resident_bytes_after_the_target_ended_is_zero(use_scan: bool) -> None:
    command = [sys.executable, "-c", "import sys; print(id(sys), flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = int(process.stdout.readline())
        with ResidencyReader(process.pid, use_scan=use_scan) as reader:
            assert reader.resident_bytes([(address, address + 1)]) == [PAGE_BYTES]
            assert not reader.has_ended()
            process.communicate("")
            assert reader.has_ended()
            assert reader.resident_bytes([(address, address + 1)]) == [0]


@pytest.mark.parametrize("use_scan", [True, False])
def test_present_runs_skip_pages_that_are_still_the_files(tmp_path: Path, use_scan: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * PAGE_BYTES)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory,
    ):
        assert memory[0] == memory[PAGE_BYTES] == memory[2 * PAGE_BYTES] == ord("x")
        memory[PAGE_BYTES] = 0
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        with ResidencyReader(os.getpid(), use_scan=use_scan) as reader:
            whole = reader.present_runs(address, address + 3 * PAGE_BYTES)
            written = reader.present_runs(address, address + 3 * PAGE_BYTES, skips_files=True)
        del view
    assert whole == [(address, address + 3 * PAGE_BYTES)]
    assert written == [(address + PAGE_BYTES, address + 2 * PAGE_BYTES)]


def test_residency_reader_no_such_process_raises_target_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(TargetGoneError):
        ResidencyReader(process.pid)
