"""Which functions of an object are probed."""

from __future__ import annotations

import pytest

from nativeleak.probes.calls import AllocCall
from nativeleak.probes.families import OPERATORS, Affix, affixes_of, choose_affixed, choose_points, is_allocator


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


@pytest.mark.parametrize(
    ("defined", "affix"),
    [
        (("_rjem_malloc", "_rjem_mallocx", "_rjem_sdallocx"), Affix("_rjem_")),
        (("je_malloc", "je_free", "je_malloc_usable_size"), Affix("je_")),
        (("arrow_mi_malloc_aligned", "arrow_mi_free"), Affix("arrow_mi_")),
        (("tc_malloc", "tc_free", "tc_posix_memalign"), Affix("tc_")),
        (("dlmalloc", "dlfree", "dlmalloc_usable_size"), Affix("dl")),
        (("malloc_v2", "free_v2", "memalign_v2"), Affix("", "_v2")),
        (("scalable_aligned_malloc", "scalable_aligned_free", "scalable_malloc", "scalable_free"), Affix("scalable_")),
    ],
)
def test_family_of_an_allocator_is_told_by_its_names(defined, affix):
    assert affix in {found for name in defined for found in affixes_of(name) if is_allocator(found, defined)}


@pytest.mark.parametrize(
    "defined",
    [
        ("g_malloc", "g_free", "g_realloc", "g_aligned_alloc"),
        ("sqlite3_malloc", "sqlite3_free", "sqlite3_msize"),
        ("mi_heap_malloc", "mi_heap_malloc_aligned", "mi_heap_delete"),
        ("_int_malloc", "_int_free", "_int_memalign"),
        ("_ZN3foo6mallocEm", "_ZN3foo4freeEPv", "_ZN3foo8memalignEmm"),
        ("runtime.malloc", "runtime.free", "runtime.memalign"),
    ],
)
def test_functions_around_an_allocator_are_no_family(defined):
    assert [found for name in defined for found in affixes_of(name) if is_allocator(found, defined)] == []


def test_affix_is_a_prefix_or_a_prefix_and_a_suffix():
    assert Affix.parse("_rjem_") == Affix("_rjem_", "")
    assert Affix.parse("my_*_v2").name("malloc") == "my_malloc_v2"
    for text in ("", "*", "a*b*c", "a b", "x-"):
        with pytest.raises(ValueError, match="not PREFIX"):
            Affix.parse(text)


def test_functions_of_a_family_have_their_arguments():
    affix = Affix("arrow_mi_")
    names = ("malloc_aligned", "realloc_aligned", "calloc", "heap_malloc", "heap_calloc", "heap_realloc", "free_size")
    points = {p.function: p for p in choose_affixed(affix, {affix.name(name): i + 1 for i, name in enumerate(names)})}
    reads = {name: points[affix.name(name)].spec.reads for name in names}
    assert reads == {
        "malloc_aligned": (0,),
        "realloc_aligned": (0, 1),
        "calloc": (0, 1),
        "heap_malloc": (1,),
        "heap_calloc": (1, 2),
        "heap_realloc": (1, 2),
        "free_size": (0,),
    }


def test_operators_beside_malloc_are_probed_where_they_do_not_call_it():
    plain = {"malloc": 16, "free": 32, "_Znwm": 64, "_ZdlPv": 80}
    assert {p.function for p in choose_points(plain, makes_own_new=True)} == set(plain)
