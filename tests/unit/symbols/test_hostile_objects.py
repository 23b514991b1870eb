"""Objects made to cost their reader time and memory: each is small, sound in every number, and read within limits."""

from __future__ import annotations

import lzma
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fuzz.elves import debugdata_object
from nativeleak.symbols import perfmap
from nativeleak.symbols.budget import Budget
from nativeleak.symbols.debugfiles import read_debugdata
from nativeleak.symbols.demangle import demangle
from nativeleak.symbols.elf import ElfError, ElfFile
from nativeleak.symbols.objects import SymbolizedObject
from nativeleak.symbols.perfmap import parse_perf_map
from nativeleak.symbols.source import BytesSource
from nativeleak.unwind.eh_frame import n_frame_bytes
from unit.unwind import objects

MIB = 1 << 20


@contextmanager
def bounded(n_bytes: int, seconds: float) -> Iterator[None]:
    """What is done within takes at most so much more memory at once, and CPU time."""
    tracemalloc.start()
    begin_s = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= n_bytes
        assert time.process_time() - begin_s <= seconds
    finally:
        tracemalloc.stop()


def elf_of_sections(sections: list[tuple[int, ...]], payload: bytes) -> bytes:
    """A file of these section headers, with ``payload`` from byte 64 on; the last section has their names."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(payload), 0, 64, 56, 0, 64, len(sections), len(sections) - 1
    )
    return header + payload + b"".join(struct.pack("<IIQQQQIIQQ", *each) for each in sections)


def test_sections_many_with_endless_names_are_bounded() -> None:
    names = b"x" * MIB
    sections = [(n, 1, 0, 0, 64, 0, 0, 0, 0, 0) for n in range(4000)] + [(0, 3, 0, 0, 64, len(names), 0, 0, 0, 0)]
    data = elf_of_sections(sections, names)
    with bounded(16 * MIB, 5):
        elf = ElfFile(BytesSource(data))
        assert len(elf.sections) == 4001
        assert max(len(each.name) for each in elf.sections) <= 256


def test_sections_more_than_any_linker_makes_are_refused() -> None:
    with pytest.raises(ElfError, match="impossible number"):
        ElfFile(BytesSource(elf_of_sections([(0, 0, 0, 0, 64, 0, 0, 0, 0, 0)] * 60_000, b"")))


def test_notes_many_and_long_without_a_build_id_are_bounded() -> None:
    notes = struct.pack("<III", 0, 0, 1) * 80_000
    data = elf_of_sections([(0, 7, 0, 0, 64, len(notes), 0, 0, 0, 0)] * 4000, notes)
    with bounded(16 * MIB, 5):
        assert ElfFile(BytesSource(data)).build_id == ""


def test_debugdata_of_many_objects_is_bounded_together() -> None:
    packed = debugdata_object(lzma.compress(bytes(32 * MIB)))
    assert len(packed) < 16 << 10
    budget = Budget(kept_bytes=100 * MIB)
    kept = []
    for _ in range(6):
        with ElfFile(BytesSource(packed)) as elf:
            read_debugdata(elf, budget)
        kept.append(budget.kept_bytes)
    assert kept == [68 * MIB, 36 * MIB, 4 * MIB, 0, 0, 0]


def test_symbols_beyond_the_budget_stay_without_names(elf_with: Callable[..., bytes]) -> None:
    from unit.symbols.conftest import Sym

    data = elf_with([Sym("known", 0x1000, 16)])
    for budget, name in ((Budget(), "known"), (Budget(read_bytes=24), None), (Budget(kept_bytes=1), None)):
        mapped = SymbolizedObject(ElfFile(BytesSource(data)), "/x.so", budget=budget)
        found = mapped.lookup(0x1008)
        assert (found.name if found is not None else None) == name
        mapped.close()


def test_demangle_name_that_grows_without_end_is_cut() -> None:
    with bounded(64 * MIB, 10):
        # Each part holds the one before twice.
        for n in range(18):
            name = "_Z1f" + "St4pairI" * n + "i" + "".join(f"S{'' if not k else chr(47 + k)}_E" for k in range(n))
            assert len(demangle(name)) <= 4096 + 20
    assert len(demangle("x" * 60_000)) == 4099


def test_perf_map_of_endless_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfmap, "MAX_PERF_MAP_LINES", 10_000)
    text = b"".join(b"%x 1 a\n" % n for n in range(100_000)) + b"1 1 z\n" * 5_000
    with bounded(8 * MIB, 10):
        table = parse_perf_map(text)
    assert len(table) == 5_000
    assert table.lookup(1) == ("z", 0)


def test_perf_map_of_one_endless_line_is_cut() -> None:
    found = parse_perf_map(b"1000 10 " + b"x" * MIB).lookup(0x1000)
    assert found is not None
    assert len(found[0]) == 4096


def test_unwind_information_for_debuggers_counts_as_work() -> None:
    """So that a small object with a great deal of it is read by the child process, which has limits."""
    small, packed = objects.frames(), bytes(4096)
    with ElfFile(BytesSource(objects.make_object(small, debug_frame=packed))) as elf:
        assert n_frame_bytes(elf) == len(small) + len(packed)
    with ElfFile(BytesSource(objects.make_object(small, debug_frame=packed, flags=0x800))) as elf:
        assert n_frame_bytes(elf) > MIB
