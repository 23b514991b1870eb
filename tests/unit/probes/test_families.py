"""Which functions of an object are probed."""

from __future__ import annotations

from nativeleak.probes.calls import AllocCall
from nativeleak.probes.families import OPERATORS, choose_points


def test_object_without_malloc_or_free_is_no_allocator():
    assert choose_points({"calloc": 1, "free": 2}) == []
    assert choose_points({"malloc": 1}) == []


def test_names_of_one_address_are_probed_once_under_the_first_name():
    points = choose_points({"malloc": 16, "free": 32, "cfree": 32, "aligned_alloc": 48, "memalign": 48})
    assert [(p.function, p.offset) for p in points] == [("malloc", 16), ("aligned_alloc", 48), ("free", 32)]


def test_operators_are_probed_in_an_allocator_of_their_own_only():
    plain = {"malloc": 16, "free": 32, "_Znwm": 64, "_ZdlPv": 80}
    assert {p.function for p in choose_points(plain)} == {"malloc", "free"}
    points = {p.function: p.kind for p in choose_points({**plain, "mallocx": 96})}
    assert points["_Znwm"] is AllocCall.NEW
    assert points["_ZdlPv"] is AllocCall.DELETE


def test_operators_are_all_forms_of_new_and_delete():
    assert len([name for name in OPERATORS if name.startswith("_Zn")]) == 8
    assert len([name for name in OPERATORS if name.startswith("_Zd")]) == 12
    assert OPERATORS["_ZnwmSt11align_val_tRKSt9nothrow_t"] is AllocCall.MALLOC
    assert OPERATORS["_ZdaPvmSt11align_val_t"] is AllocCall.DELETE
