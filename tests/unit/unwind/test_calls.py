from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from nativeleak.symbols.elf import BytesSource, ElfFile
from nativeleak.unwind import calls
from nativeleak.unwind.calls import CallFinder
from nativeleak.unwind.pack import lookup
from nativeleak.unwind.rules import Rule, unpack_rule
from nativeleak.unwind.table import UnwindTable, build_table, text_ranges
from unit.unwind.objects import TEXT, TEXT_BYTES, frames, make_object

NOPS = b"\x90" * 8
PUSHED = bytes.fromhex("48 0e10")  # from byte 8 on CFA = rsp + 16
CALL = b"\xe8" + bytes(4)  # to the next instruction


def _finder(text: bytes) -> CallFinder:
    elf = ElfFile(BytesSource(make_object(b"", text)))
    return CallFinder(elf, text_ranges(elf))


def _calls(eh_frame: bytes, text: bytes) -> UnwindTable:
    table = build_table(BytesSource(make_object(eh_frame, text)))
    assert table.reason == ""
    return table


def _at(table: UnwindTable, vaddr: int) -> Rule:
    return unpack_rule(lookup(table.words, vaddr))


@pytest.mark.parametrize(
    "code",
    ["e800000000", "ffd0", "ff10", "ff17", "ff5008", "ff1424", "ff542408", "ff9000010000", "ff1500010000",
     "ff942400010000", "41ffd2", "41ff5308", "43ff14e7", "42ff14e500010000", "3effd0", "67e800000000", "0f05"],
)  # fmt: skip
def test_any_in_call_instruction_found_whole_only(code: str) -> None:
    text = bytes.fromhex(code)
    finder = _finder(NOPS + text + NOPS)
    begin, end = TEXT + len(NOPS), TEXT + len(NOPS) + len(text)
    assert finder.any_in(begin, end)
    assert finder.any_in(TEXT, end + 4)
    n_prefixes = 1 if text[0] in (0x3E, 0x41, 0x43, 0x42, 0x67) else 0
    assert not finder.any_in(begin + n_prefixes + 1, end + 4)
    has_long_sib = code.startswith("42ff14")  # taken for the shorter form: finds no less
    assert has_long_sib or not finder.any_in(TEXT, end - 1)


@pytest.mark.parametrize("code", ["e8ffffff7f", "ffe0", "ff30", "ff25", "0f04", "e8000000"])
def test_any_in_other_instruction_not_found(code: str) -> None:
    assert not _finder(NOPS + bytes.fromhex(code)).any_in(TEXT, TEXT + len(NOPS) + len(code) // 2)


def test_any_in_call_beyond_the_object_not_found_within_found() -> None:
    target = TEXT_BYTES - 1 - 5
    assert _finder(b"\xe8" + struct.pack("<i", target)).any_in(TEXT, TEXT + 5)
    assert not _finder(b"\xe8" + struct.pack("<i", target + 1)).any_in(TEXT, TEXT + 5)
    assert not _finder(b"\xe8" + struct.pack("<i", -6)).any_in(TEXT, TEXT + 5)


@pytest.mark.parametrize("place", range(40, 60))
def test_any_in_range_longer_than_the_window(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_WINDOW_BYTES", 48)
    finder = _finder(b"\x90" * place + CALL)
    assert finder.any_in(TEXT, TEXT + 0x100)
    assert not finder.any_in(TEXT, TEXT + place + 4)
    assert not finder.any_in(TEXT + place + 1, TEXT + TEXT_BYTES)
    assert not finder.any_in(TEXT + place + 1, TEXT + 2 * TEXT_BYTES)


def test_any_in_first_bytes_of_the_window() -> None:
    finder = _finder(b"\x90\x90" + CALL)
    assert not finder.any_in(TEXT, TEXT + 2)
    assert finder.any_in(TEXT, TEXT + 7)


def test_call_site_rows_row_without_call_falls_to_the_one_before() -> None:
    table = _calls(frames((TEXT, 8, b""), (TEXT + 8, 24, PUSHED)), b"\x90\x90" + CALL + b"\x90" * 20)
    assert table.n_rows == 1
    assert _at(table, TEXT + 6) == Rule(1, 8)
    assert _at(table, TEXT + 20) == Rule(1, 8)


def test_call_site_rows_call_at_the_end_of_a_row_belongs_to_it() -> None:
    table = _calls(frames((TEXT, 32, PUSHED)), b"\x90\x90\x90" + CALL + b"\x90\x90" + CALL)
    assert _at(table, TEXT + 7) == Rule(1, 8)  # the call's last byte: what a walk asks for
    assert _at(table, TEXT + 8) == Rule(1, 16)


def test_call_site_rows_noreturn_call_at_the_end_of_a_function() -> None:
    table = _calls(frames((TEXT, 8, b"\x0e\x20"), (TEXT + 8, 8, b"")), b"\x90\x90\x90" + CALL + CALL)
    assert _at(table, TEXT + 7) == Rule(1, 32)


def test_call_site_rows_root_and_signal_frame_kept_without_calls() -> None:
    table = _calls(frames((TEXT, 8, b""), (TEXT + 16, 8, bytes.fromhex("0710"))), CALL)
    assert _at(table, TEXT + 4) == Rule(1, 8)
    assert _at(table, TEXT + 15) == Rule(0)  # the gap before: a made-up return address may be the root's first byte
    assert _at(table, TEXT + 16) == Rule(6)


def test_call_site_rows_gap_with_call_kept_padding_not() -> None:
    functions = frames((TEXT, 8, b""), (TEXT + 20, 8, b""), (TEXT + 60, 8, b""))
    text = CALL + b"\x90" * 27 + CALL
    table = _calls(functions, text)
    assert _at(table, TEXT + 10) == Rule(1, 8)
    assert _at(table, TEXT + 36) == Rule(0)
    assert _at(table, TEXT + 59) == Rule(0)


def test_call_site_rows_padding_before_makecontext_trampoline_kept() -> None:
    code = b"\x48\x89\xdc" + CALL
    text = CALL + b"\x90" * 11 + code
    table = _calls(frames((TEXT, 8, b""), (TEXT + 16, 16, b"\x0e\x20")), text)
    assert _at(table, TEXT + 15) == Rule(0)
    assert _at(table, TEXT + 19 + 4) == Rule(1, 32)


def test_call_site_rows_nothing_calls_says_so() -> None:
    assert "calls" in build_table(BytesSource(make_object(frames((TEXT, 8, b""))))).reason


def test_call_site_table_of_assembled_object_agrees_at_each_call(assemble: Callable[..., Path]) -> None:
    calls_ = ["call f0", "call *%r11", "call *(%r12,%rax,8)", "syscall", "nop", "call *f0(%rip)"]
    body = "".join(FUNCTION.format(n=n, call=call, room=8 * n, off=16 + 8 * n) for n, call in enumerate(calls_, 1))
    path = assemble(".text\nf0: .cfi_startproc\nret\n.cfi_endproc\n" + body)
    full = build_table(BytesSource(path.read_bytes()), full=True)
    few = build_table(BytesSource(path.read_bytes()))
    data = path.read_bytes()
    adds = [at for n in (1, 2, 3, 4, 6) if (at := data.find(b"\x48\x83\xc4" + bytes([8 * n]))) > 0]
    with ElfFile.open(str(path)) as elf:
        ends = [vaddr - 1 for at in adds if (vaddr := elf.offset_to_vaddr(at)) is not None]
    assert len(ends) == 5
    assert [lookup(few.words, end) for end in ends] == [lookup(full.words, end) for end in ends]
    assert [unpack_rule(lookup(few.words, end)).off for end in ends] == [24, 32, 40, 48, 64]
    assert few.n_rows < full.n_rows


FUNCTION = """
f{n}: .cfi_startproc
push %rbx
.cfi_def_cfa_offset 16
sub ${room}, %rsp
.cfi_def_cfa_offset {off}
{call}
add ${room}, %rsp
.cfi_def_cfa_offset 16
pop %rbx
.cfi_def_cfa_offset 8
ret
.cfi_endproc
"""
