"""Exits of made-up functions, and of those of the libraries on this machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativeleak.probes import families
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.cut import UNLIMITED, Cut
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.probes.exits import UNSEEN, Exits, find_exits
from nativeleak.probes.flow import FlowReader
from nativeleak.probes.image import Callee
from nativeleak.probes.placement import place
from nativeleak.probes.registers import NAMES
from nativeleak.probes.returns import Plan, Returns, plan_returns
from nativeleak.probes.search import find_allocators
from nativeleak.probes.values import ZERO
from support import require

CODE = bytes.fromhex(
    "534889fbe80a0000004885c074034889185bc3c34c8b1f4939f374074889374c89d8c3e8ebffffff4889f0c383ff02771d488d151c00000048"
    "6304ba4801d0ffe04889f0eb0731c0eb034889d0c331c0c30f1f00edfffffff2fffffff6ffffff4883ec18e8aaffffff4889442408e8a0ffff"
    "ff488b442408eb004883c418c3554889e54883e4c0e887ffffffeb00c9c353c3"
)
"""Some functions, in a row; EXT only returns."""
EXT = 0x13


class MadeUpImage:
    """Code that begins at address 0.

    Args:
        code: It.
        names: Public functions by address.
        slots: What words of the global offset table lead to.
    """

    elf = SimpleNamespace(segments=())

    def __init__(
        self, code: bytes, names: dict[int, str] | None = None, slots: dict[int, Callee] | None = None
    ) -> None:
        self._code, self._names, self._slots = code, names or {}, slots or {}

    def read_code(self, vaddr: int, n_bytes: int) -> bytes:
        return self._code[vaddr : vaddr + n_bytes] if vaddr >= 0 else b""

    read_data = read_code

    def name_at(self, vaddr: int) -> str:
        return self._names.get(vaddr, "")

    def callee_in_slot(self, vaddr: int) -> Callee:
        return self._slots.get(vaddr, Callee(None, ""))


def exits_of(code: bytes | str, entry: int = 0, kind: AllocCall = AllocCall.MALLOC, **options: Any) -> Exits:
    probed = options.pop("probed", ())
    code = bytes.fromhex(code) if isinstance(code, str) else code
    return find_exits(FlowReader(MadeUpImage(code, **options)), entry, kind, CONSERVATIVE, probed)  # type: ignore[arg-type]


def shown(exits: Exits) -> list[tuple[int, str, int, int | None]]:
    """(address, register, depth, condition) of each."""
    assert exits.reason == ""
    return [
        (e.vaddr, "0" if e.register == ZERO else NAMES[e.register], e.depth_bytes, e.condition) for e in exits.places
    ]


def test_exit_is_on_the_test_behind_which_nothing_changes_the_block():
    assert shown(exits_of(CODE, 0x00)) == [(0x0C, "rax", 8, None)]


def test_exit_may_be_one_way_of_a_branch_only():
    # je at 0x1a: where it is not taken, the block is in r11 already; where it is, the ret is stepped.
    exits = exits_of(CODE, 0x14)
    assert shown(exits) == [(0x1A, "r11", 0, 5), (0x28, "rsi", 0, None)]
    assert [e.emulated for e in exits.places] == [True, False]
    assert not exits.is_costly


def test_exit_jump_table_is_followed():
    assert shown(exits_of(CODE, 0x2C)) == [(0x4D, "rax", 0, None), (0x4E, "0", 0, None)]


def test_exit_block_that_was_spilled_is_known_behind_the_last_call():
    assert shown(exits_of(CODE, 0x60)) == [(0x78, "rax", 24, None)]


def test_exit_where_the_stack_was_aligned_is_where_its_depth_is_known_again():
    exits = exits_of(CODE, 0x7F)
    assert shown(exits) == [(0x8F, "rax", 0, None)]
    assert not exits.places[0].emulated


def test_function_that_returns_with_something_pushed_is_refused():
    assert "at 0x91 the stack is not known" in exits_of(CODE, 0x90).reason


def test_function_that_runs_out_of_its_code_is_refused():
    assert "where there is no code" in exits_of("90").reason


def test_function_with_an_instruction_inside_of_another_is_refused():
    # je 4; mov eax, imm32, in which at 4 there is a ret; ret
    assert "has another one inside" in exits_of("7402" + "b800c30000" + "c3").reason


def test_function_that_never_returns_is_refused():
    assert exits_of("ebfe").reason == "it never returns"


def test_jump_to_an_unknown_function_is_refused_by_name():
    code = "ff2500000000"  # jmp [rip]
    assert exits_of(code, slots={6: Callee(None, "elsewhere")}).reason == "it ends in a jump to elsewhere at 0x0"


def test_jump_through_a_variable_is_an_exit_at_which_nothing_is_known():
    (place_,) = exits_of("488b0500000000ffe0").places
    assert (place_.vaddr, place_.register) == (7, UNSEEN)


def test_jump_to_a_probed_function_goes_on_there():
    exits = exits_of("eb0e" + "90" * 14 + "c3", probed={16})
    assert exits == Exits((), (16,), is_wrapper=True)


def test_jump_to_memset_returns_its_first_argument():
    code = "e90b000000" + "90" * 11 + "c3"
    assert shown(exits_of(code, names={16: "memset"})) == [(0, "rdi", 0, None)]


def test_call_that_never_returns_is_no_path():
    # 0: test rdi, rdi; 3: je 0xb; 5: mov rax, rdi; 8: jmp 0xa; 0xa: ret; 0xb: call 0x14, a ud2; 0x10: push rbx; ret
    code = "4885ff7406" + "4889f8" + "eb00" + "c3" + "e804000000" + "53c3" + "9090" + "0f0b"
    assert shown(exits_of(code)) == [(3, "rdi", 0, None)]


def test_wrapper_of_a_probed_function_is_one():
    # push rbx; call 0x10; pop rbx; ret
    code = "53" + "e80a000000" + "5bc3" + "90" * 8 + "c3"
    assert exits_of(code, probed={16}).is_wrapper
    assert not exits_of(code).is_wrapper


def test_posix_memalign_exits_are_behind_what_it_stores():
    # mov rax, rsi; jmp +0; mov [rdi], rdx; xor eax, eax; jmp +0; ret
    code = "4889f0" + "eb00" + "488917" + "31c0" + "eb00" + "c3"
    assert shown(exits_of(code, kind=AllocCall.POSIX_MEMALIGN)) == [(10, "rax", 0, None)]


def test_cut_takes_the_cheapest_places_each_way_once():
    # 0 -> 1 -> 3, 0 -> 2 -> 3: cheaper at 1 and 2 than behind 3; a way back from 3's side may not be crossed.
    cut = Cut(4)
    cut.add_arc(0, 1, 5)
    cut.add_arc(0, 2, 5)
    cut.add_arc(1, 3, 2)
    cut.add_arc(2, 3, 3)
    assert cut.find(0, 3) == {0, 1, 2}


def test_cut_that_would_be_crossed_back_is_not_taken():
    # 0 -> 1 -> 2 -> 3, and 1 -> 3 by way of what comes before 2: the cheap arc alone does not part them once.
    cut = Cut(4)
    cut.add_arc(0, 1, UNLIMITED)
    cut.add_arc(1, 2, 1)
    cut.add_arc(2, 1, UNLIMITED)
    cut.add_arc(2, 3, 7)
    assert cut.find(0, 3) == {0, 1, 2}


def test_cut_where_nothing_may_be_cut_is_none():
    cut = Cut(2)
    cut.add_arc(0, 1, UNLIMITED)
    assert cut.find(0, 1) is None


# ---- the libraries of this machine ----

LIBRARIES = {
    "libc.so.6": 9,
    "libjemalloc.so.2": 17,
    "libtcmalloc_minimal.so.4": 11,
    "libmimalloc.so.2.0": 16,
}
"""Debian 12's, and how many functions that allocate each has; all are understood."""


def plan_of(path: str, returns: Returns) -> Plan:
    points = find_allocators(path).points
    return plan_returns(path, place(path, points, CONSERVATIVE), returns, CONSERVATIVE)


def library(name: str) -> str:
    found = sorted(Path("/lib").glob(f"x86_64-linux-gnu/{name}"))
    require(found, f"{name} is not installed")
    return str(found[0])


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_every_function_has_exits(name):
    plan = plan_of(library(name), Returns.EXITS)
    assert plan.unseen == ()
    assert {probe.point.spec.frees for probe in plan.placed} == {True}
    assert all(each.exits for each in plan.at_exits)


@pytest.mark.parametrize("name", ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2.0"])
def test_library_operators_are_never_seen_by_return_probes(name):
    plan = plan_of(library(name), Returns.AUTO)
    at_exits = {each.probe.point.function for each in plan.at_exits}
    assert at_exits == {f for f in at_exits if f in families.OPERATORS or "new" in f}
    assert at_exits
    assert not {probe.point.function for probe in plan.placed if not probe.point.spec.frees} & set(families.OPERATORS)


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("function", ["malloc", "calloc", "realloc", "_Znwm"])
def test_library_calls_that_call_nothing_else_are_not_stepped(name, function):
    plan = plan_of(library(name), Returns.EXITS)
    found = [each for each in plan.at_exits if each.probe.point.function == function]
    assert not any(place.exit.is_costly for each in found for place in each.exits)
