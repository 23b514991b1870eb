from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from nativeleak.symbols.elf import BytesSource, ElfError, ElfFile
from nativeleak.unwind import eh_frame, rules
from nativeleak.unwind.eh_frame import find_eh_frame, read_fdes
from nativeleak.unwind.pack import lookup
from nativeleak.unwind.rules import Rule, unpack_rule
from nativeleak.unwind.table import UnwindTable, build_table
from unit.unwind.objects import CIE_BODY, FRAMES, TEXT, cie, fde, frames, make_object

PUSH = bytes.fromhex("41 0e10 8602")


def _full(data: bytes) -> UnwindTable:
    return build_table(BytesSource(data), full=True)


def _at(table: UnwindTable, vaddr: int) -> Rule:
    assert table.reason == ""
    return unpack_rule(lookup(table.words, vaddr))


def _debug_frames(start: int, n_bytes: int, code: bytes) -> bytes:
    body = bytes.fromhex("04 00 0800 01 78 10 0c0708 9001").ljust(16, b"\0")
    record = struct.pack("<II", len(body) + 4, 0xFFFFFFFF) + body
    body = struct.pack("<IQQ", 0, start, n_bytes) + code
    return record + struct.pack("<I", len(body)) + body


def test_build_table_rows_and_gaps() -> None:
    table = _full(make_object(frames((TEXT, 16, PUSH), (TEXT + 0x20, 16, b""))))
    assert _at(table, TEXT) == Rule(1, 8)
    assert _at(table, TEXT + 1) == Rule(1, 16, 1, -16)
    assert _at(table, TEXT + 15) == Rule(1, 16, 1, -16)
    assert _at(table, TEXT + 16) == Rule(0)
    assert _at(table, TEXT + 0x20) == Rule(1, 8)
    assert _at(table, TEXT + 0x30) == Rule(0)
    assert _at(table, TEXT - 1) == Rule(0)
    assert table.text_end == TEXT + 0x1000


def test_build_table_functions_out_of_order_and_overlapping() -> None:
    table = _full(make_object(frames((TEXT + 0x40, 0x40, PUSH), (TEXT, 0x100, b""), (TEXT + 0x60, 8, b"\x0e\x20"))))
    assert _at(table, TEXT + 0x3F) == Rule(1, 8)
    assert _at(table, TEXT + 0x5F) == Rule(1, 16, 1, -16)
    assert _at(table, TEXT + 0x60) == Rule(1, 32)
    assert _at(table, TEXT + 0x68) == Rule(0)  # what begins last holds, as in every unwinder's binary search


def test_build_table_function_outside_of_text_left_out() -> None:
    table = _full(make_object(frames((0, 16, b""), (TEXT, 16, b""), (TEXT + 0x5000, 16, b""))))
    assert table.n_rows == 2


def test_build_table_same_program_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fdes = read_fdes(eh_frame.FrameSection(frames((TEXT, 16, PUSH), (TEXT + 64, 32, PUSH)), FRAMES))
    assert fdes[0][2] is fdes[1][2]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ("01 00 01 78 10", struct.pack("<QQ", TEXT, 16)),  # no augmentation: absptr
        ("01 7a5200 01 78 10 01 00", struct.pack("<QQB", TEXT, 16, 0)),
        ("01 7a5200 01 78 10 01 03", struct.pack("<IIB", TEXT, 16, 0)),  # udata4
        ("01 7a5200 01 78 10 01 04", struct.pack("<QQB", TEXT, 16, 0)),  # udata8
        ("01 7a5200 01 78 10 01 0b", struct.pack("<iIB", TEXT, 16, 0)),  # sdata4
        ("03 7a5200 01 78 10 01 1c", struct.pack("<qQB", TEXT - FRAMES - 0x20, 16, 0)),  # pcrel sdata8
        ("01 7a504c5200 01 78 10 07 9b00000000 1b 03", struct.pack("<IIB", TEXT, 16, 0)),  # zPLR
        ("01 7a525300 01 78 10 01 03", struct.pack("<IIB", TEXT, 16, 0)),  # zRS
        ("01 7a52", None),
        ("01 7a5258 00 01 78 10 01 03", None),  # an augmentation that nobody knows
        ("01 656800 00000000 00000000 01 78 10", struct.pack("<QQ", TEXT, 16)),  # gcc 2
        ("07 00 01 78 10", None),
        ("01 00 01 78 0f", None),  # return address in r15
        ("01 7a5200 01 78 10 01 3b", None),  # relative to data of which nothing is known
    ],
)
def test_build_table_pointer_encodings(body: str, pointers: bytes | None) -> None:
    record = cie((bytes.fromhex(body) + bytes.fromhex("0c0708 9001")).ljust(0x18, b"\0"))
    assert len(record) == 0x20 or pointers is None
    if pointers is not None and b"\x1c" in bytes.fromhex(body):
        pointers = struct.pack("<qQB", TEXT - (FRAMES + len(record) + 8), 16, 0)
    body_bytes = struct.pack("<I", len(record) + 4) + (pointers or bytes(17))
    table = _full(make_object(record + struct.pack("<I", len(body_bytes)) + body_bytes))
    if pointers is None:
        assert table.words == b""
        assert ".eh_frame is damaged" in table.reason
    else:
        assert _at(table, TEXT + 15) == Rule(1, 8)
        assert _at(table, TEXT + 16) == Rule(0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frames((TEXT, 16, b"\x3f")), "instruction 0x3f is not known"),
        (frames((TEXT, 16, b"\x0b")), "not remembered"),
        (cie() + struct.pack("<II", 0xFFFF, 7), "impossible length"),
        (cie() + struct.pack("<IQ", 0xFFFFFFFF, 7), "impossible length"),
        (cie() + struct.pack("<IIQ", 12, 0x1000, 7), "no CIE"),
        (cie() + fde(len(cie()), TEXT, 16, b"")[:-1], "impossible length"),
        (b"", "no unwind information"),
        (bytes(64), "no unwind information"),
        (frames((TEXT, 0, b"")), "no unwind information"),
    ],
)
def test_build_table_damaged_says_why(data: bytes, why: str) -> None:
    table = _full(make_object(data))
    assert why in table.reason
    assert (table.words, table.n_rows) == (b"", 0)


def test_build_table_no_elf_file_says_why() -> None:
    assert "not a 64-bit" in _full(b"hello".ljust(100)).reason


def test_build_table_too_many_rows_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eh_frame, "MAX_DISTINCT_ROWS", 3)
    code = bytes.fromhex("41 0e10 41 0e18 41 0e20 41 0e28")
    assert "distinct rows" in _full(make_object(frames((TEXT, 16, code)))).reason


def test_build_table_section_too_long_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eh_frame, "MAX_SECTION_BYTES", 16)
    assert "at most 16" in _full(make_object(frames((TEXT, 16, b"")))).reason


def test_build_table_debug_frame_fills_gaps_only() -> None:
    debug = _debug_frames(TEXT, 0x100, bytes.fromhex("0e40"))
    table = _full(make_object(frames((TEXT + 0x20, 16, PUSH)), debug_frame=debug))
    assert _at(table, TEXT) == Rule(1, 64)
    assert _at(table, TEXT + 0x20) == Rule(1, 8)
    assert _at(table, TEXT + 0x21) == Rule(1, 16, 1, -16)
    assert _at(table, TEXT + 0x30) == Rule(1, 64)
    assert _at(table, TEXT + 0x100) == Rule(0)


def test_build_table_debug_frame_alone_compressed() -> None:
    plain = _debug_frames(TEXT, 0x100, PUSH)
    packed = struct.pack("<IIQQ", 1, 0, len(plain), 1) + zlib.compress(plain)
    table = _full(make_object(b"", debug_frame=packed, flags=0x800))
    assert _at(table, TEXT + 1) == Rule(1, 16, 1, -16)


@pytest.mark.parametrize(
    "packed",
    [
        b"\1",
        struct.pack("<IIQQ", 2, 0, 100, 1) + bytes(50),  # zstd
        struct.pack("<IIQQ", 1, 0, 100, 1) + bytes(50),
        struct.pack("<IIQQ", 1, 0, 1 << 60, 1) + zlib.compress(bytes(100)),
        struct.pack("<IIQQ", 1, 0, 100, 1) + zlib.compress(bytes(99)),
    ],
)
def test_build_table_debug_frame_damaged(packed: bytes) -> None:
    assert _full(make_object(b"", debug_frame=packed, flags=0x800)).reason
    kept = _full(make_object(frames((TEXT, 16, PUSH)), debug_frame=packed, flags=0x800))
    assert _at(kept, TEXT) == Rule(1, 8)  # what is mapped does not depend on it


def test_find_eh_frame_without_sections_by_header(assemble: Callable[..., Path]) -> None:
    data = bytearray(assemble(SOURCE, "-Wl,--eh-frame-hdr").read_bytes())
    with ElfFile(BytesSource(bytes(data))) as elf:
        section = find_eh_frame(elf)
        assert section is not None
        expected = read_fdes(section)
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    with ElfFile(BytesSource(bytes(data))) as elf:
        assert elf.sections == ()
        section = find_eh_frame(elf)
        assert section is not None
        assert read_fdes(section) == expected
    assert len(expected) == 3


def test_assembled_object_has_the_rules_of_its_directives(assemble: Callable[..., Path]) -> None:
    path = assemble(SOURCE)
    table = _full(path.read_bytes())
    with ElfFile.open(str(path)) as elf:
        section = elf.section(".text")
    assert section is not None
    text = section.vaddr
    assert [_at(table, text + offset) for offset in (0, 1, 4, 5, 6)] == [
        Rule(1, 8),
        Rule(1, 16, 1, -16),
        Rule(2, 16, 1, -16),
        Rule(1, 8, 1, -16),
        Rule(6),
    ]
    assert _at(table, text + 7) == Rule(9)


SOURCE = """
.text
f: .cfi_startproc
push %rbp
.cfi_def_cfa_offset 16
.cfi_offset %rbp, -16
mov %rsp, %rbp
.cfi_def_cfa_register %rbp
leave
.cfi_def_cfa %rsp, 8
ret
.cfi_endproc
g: .cfi_startproc
.cfi_undefined %rip
ret
.cfi_endproc
h: .cfi_startproc
.cfi_register %rip, %rdi
ret
.cfi_endproc
"""


def test_vdso_of_this_process_has_tables() -> None:
    lines = Path("/proc/self/maps").read_text().splitlines()
    place = next((line.split()[0] for line in lines if line.endswith("[vdso]")), "")
    if not place:
        pytest.skip("this process has no vdso")
    start, end = (int(part, 16) for part in place.split("-"))
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(start)
        table = _full(memory.read(end - start))
    assert table.reason == ""
    assert table.n_rows > 10


def test_build_table_flipped_bytes_ends_with_a_table_or_a_reason() -> None:
    """Bytes of this interpreter's own ``.eh_frame``, or of its C library, changed at random."""
    path = sys.executable
    with ElfFile.open(path) as elf:
        frame = find_eh_frame(elf)
    assert frame is not None
    chance = random.Random(4)
    started_s = time.process_time()
    reasons = []
    for _ in range(400):
        begin = 0
        data = bytearray(frame.data[: 1 << 14])
        for _ in range(chance.choice((1, 1, 3, 20))):
            data[chance.randrange(begin, len(data))] = chance.choice((0, 0xFF, 0x80, 0x7F, chance.randrange(256)))
        try:
            read_fdes(eh_frame.FrameSection(bytes(data), frame.vaddr, n_fdes=chance.choice((None, 1 << 40))))
        except ElfError as error:
            reasons.append(error.what)
    assert len(reasons) > 20
    assert all("damaged" in reason for reason in reasons)
    assert time.process_time() - started_s < 60


def test_build_table_flipped_file_ends_with_a_table_or_a_reason(assemble: Callable[..., Path]) -> None:
    data = assemble(SOURCE, "-Wl,--eh-frame-hdr").read_bytes()
    chance = random.Random(5)
    interesting = [*range(64 + 12 * 56), *range(len(data) - 12 * 64, len(data))]
    interesting += range(data.index(CIE_BODY[:4]) - 8, data.index(CIE_BODY[:4]) + 200)
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.choice(interesting)
            if place < len(changed):
                changed[place] = chance.choice((0, 1, 0xFF, 0x80, chance.randrange(256)))
        for full in (True, False):
            table = build_table(BytesSource(bytes(changed)), full=full)
            assert bool(table.words) != bool(table.reason)
            assert len(table.words) % 4096 == 0


def test_build_table_hostile_lengths_are_bounded() -> None:
    """A megabyte of instructions that each cost most: it is read in one go and no state is kept twice."""
    many = bytes.fromhex("0a") * 200_000 + bytes.fromhex("0b") * 200_000 + bytes.fromhex("41 0e10 41 0e08") * 100_000
    started_s = time.process_time()
    section = eh_frame.FrameSection(frames((TEXT, 1 << 30, many)), FRAMES)
    assert len(read_fdes(section)[0][2]) == 200_001
    assert time.process_time() - started_s < 10


def test_module_needs_no_numpy() -> None:
    code = "import sys, nativeleak.unwind.builder; sys.exit('numpy' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rules_none_is_zero() -> None:
    assert rules.NONE == 0
