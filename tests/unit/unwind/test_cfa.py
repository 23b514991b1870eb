from __future__ import annotations

import pytest

from nativeleak.symbols.elf import ElfError
from nativeleak.unwind import rules
from nativeleak.unwind.cfa import END, Factors, Machine
from nativeleak.unwind.encoding import read_pointer, read_sleb, read_uleb
from nativeleak.unwind.rules import Rule, at_fp_off, pack_rule, split_at_fp_off, unpack_rule

INITIAL = bytes.fromhex("0c0708 9001")  # CFA = rsp + 8, return address at CFA - 8


def _pointer(data: bytes, at: int, address: int) -> tuple[int, int]:
    return read_pointer(data, at, 0x1B, address, None)


def _run(code: str, *, signal: bool = False, min_bytes: int = 1, initial: bytes = INITIAL) -> list[tuple[int, Rule]]:
    machine = Machine(Factors(1, -8, signal, _pointer), initial, min_bytes)
    return [(start, unpack_rule(word)) for start, _, word in machine.run(bytes.fromhex(code), 0x1000, 0x2000)]


def test_run_prologue_and_epilogue_rules() -> None:
    # push rbp; mov rsp, rbp; ...; leave
    assert _run("41 0e10 8602 43 0d06 4a 0c0708") == [
        (0, Rule(1, 8)),
        (1, Rule(1, 16, rules.FP_AT_CFA, -16)),
        (4, Rule(2, 16, rules.FP_AT_CFA, -16)),
        (14, Rule(1, 8, rules.FP_AT_CFA, -16)),
    ]


def test_run_rows_reach_to_the_next() -> None:
    machine = Machine(Factors(1, -8, False, _pointer), INITIAL)
    assert [row[:2] for row in machine.run(bytes.fromhex("41 0e10 42 0e18"), 0, 0)] == [(0, 1), (1, 3), (3, END)]


def test_run_same_rule_again_is_one_row() -> None:
    assert _run("44 8303 44 0e08 44 8c04") == [(0, Rule(1, 8))]


@pytest.mark.parametrize(
    ("code", "start"),
    [("0210 0e10", 0x10), ("030001 0e10", 0x100), ("0400000100 0e10", 0x10000), ("01fff1ffff 0e10", 0x200)],
    ids=["advance_loc1", "advance_loc2", "advance_loc4", "set_loc"],
)
def test_run_advances_location(code: str, start: int) -> None:
    assert _run(code) == [(0, Rule(1, 8)), (start, Rule(1, 16))]


def test_run_set_loc_is_noted() -> None:
    machine = Machine(Factors(1, -8, False, _pointer), INITIAL)
    machine.run(bytes.fromhex("01fff1ffff 0e10"), 0x1000, 0x2000)
    assert machine.has_set_loc
    machine.run(bytes.fromhex("41"), 0x1000, 0x2000)
    assert not machine.has_set_loc


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("0c0610", Rule(2, 16)),
        ("0c8600 8100".replace(" ", ""), Rule(2, 1)),  # numbers written with more bytes than needed
        ("12077e", Rule(1, 16)),  # def_cfa_sf: -2 * -8
        ("137e", Rule(1, 16)),  # def_cfa_offset_sf
        ("0d06", Rule(2, 8)),
        ("0e8001", Rule(1, 128)),
        ("8602", Rule(1, 8, 1, -16)),
        ("868202", Rule(1, 8, 1, -2064)),
        ("050602", Rule(1, 8, 1, -16)),
        ("110602", Rule(1, 8, 1, -16)),
        ("11067e", Rule(1, 8, 1, 16)),
        ("2f0602", Rule(1, 8, 1, 16)),
        ("8602 c6", Rule(1, 8)),
        ("8602 0606", Rule(1, 8)),
        ("8602 0706", Rule(1, 8)),
        ("8602 0806", Rule(1, 8)),
        ("0a 8602 0e20 0b", Rule(1, 8)),
        ("2e10", Rule(1, 8)),
        ("0710", Rule(6)),
        ("0910 03".replace(" ", ""), Rule(9)),  # return address in a register
        ("0810", Rule(9)),
        ("9002", Rule(9)),  # return address elsewhere
        ("0710 d0", Rule(1, 8)),
        ("0710 0610", Rule(1, 8)),
        ("090603", Rule(9)),  # rbp in a register
        ("140602", Rule(9)),
        ("150602", Rule(9)),
        ("100602 7610".replace(" ", ""), Rule(1, 8, 2, 16)),  # rbp at rbp + 16
        ("100602 7710".replace(" ", ""), Rule(9)),
        ("160602 7610".replace(" ", ""), Rule(9)),
        ("0c0308", Rule(9)),  # CFA = rbx + 8
        ("0f02 7710".replace(" ", ""), Rule(1, 16)),
        ("0f02 7610".replace(" ", ""), Rule(2, 16)),
        ("0f03 767806".replace(" ", ""), Rule(3, 0xFFF8)),
        ("0f05 7678062308".replace(" ", ""), Rule(3, 0xFFF8 | 8 << 16)),
        ("0f06 767806238002".replace(" ", ""), Rule(9)),  # addend 256
        ("0f05 7778062308".replace(" ", ""), Rule(9)),  # OpenSSL: a word on the stack
        ("0f0b 770880003f1a3b2a332422".replace(" ", ""), Rule(7, 11)),
        ("0f0b 770880003f1a392a332422".replace(" ", ""), Rule(7, 9)),
        ("0f03 767806 0d06".replace(" ", ""), Rule(2, 8)),
        ("0effffffff0f", Rule(9)),  # an offset of more than 31 bits
        ("868080808001", Rule(9)),
    ],
)
def test_run_instruction_gives_rule(code: str, rule: Rule) -> None:
    assert _run(code)[-1][1] == rule


def test_run_signal_frame_needs_its_expression() -> None:
    assert _run("0f0477a00106", signal=True) == [(0, Rule(5))]
    assert _run("0f0477a00106") == [(0, Rule(9))]
    assert _run("0e10", signal=True) == [(0, Rule(1, 16))]


def test_run_narrow_rows_left_out_but_roots() -> None:
    assert _run("41 0e10 42 0e18 41 0710 41 c0d0", min_bytes=2) == [
        (1, Rule(1, 16)),
        (4, Rule(6)),
        (5, Rule(1, 24)),
    ]


@pytest.mark.parametrize(
    "code",
    ["3f", "2d", "17", "0b", "0e", "0e80", "02", "0300", "04000000", "0c07", "0f05 77", "1006 7f", "86", "10", "01",
     "0e" + "80" * 11, "44 0150e1ffff", "0f0276", "0f0276ff"],
)  # fmt: skip
def test_run_damaged_raises(code: str) -> None:
    with pytest.raises(ElfError):
        _run(code)


def test_machine_cie_that_advances_raises() -> None:
    with pytest.raises(ElfError, match="advances"):
        _run("", initial=INITIAL + bytes.fromhex("41 0e10"))


def test_machine_cie_without_return_address_gives_bad() -> None:
    assert _run("", initial=bytes.fromhex("0c0708")) == [(0, Rule(9))]


def test_leb_numbers() -> None:
    assert read_uleb(b"\xe5\x8e\x26", 0) == (624485, 3)
    assert read_sleb(b"\x9b\xf1\x59", 0) == (-624485, 3)
    assert read_sleb(b"\x80\x7f", 0) == (-128, 2)


@pytest.mark.parametrize("rule", [Rule(1, 8), Rule(2, -16, 1, -32768), Rule(3, 0xFFD8, 2, 0), Rule(1, 0x7FFFFFFF)])
def test_pack_rule_and_back(rule: Rule) -> None:
    assert unpack_rule(pack_rule(*rule)) == rule


def test_pack_rule_layout() -> None:
    assert pack_rule(1, 8, 1, -16) == 0x0000_0008_FFF0_0101


@pytest.mark.parametrize("rule", [(1, 1 << 31), (1, -(1 << 31) - 1), (1, 8, 1, 1 << 15), (1, 8, 1, -(1 << 15) - 1)])
def test_pack_rule_too_far_is_bad(rule: tuple[int, ...]) -> None:
    assert pack_rule(*rule) == rules.BAD


def test_at_rbp_off_and_back() -> None:
    off = at_fp_off(-40, 8)
    assert off is not None
    assert split_at_fp_off(off) == (-40, 8)
    assert at_fp_off(-0x8001, 0) is None
    assert at_fp_off(0, 256) is None
