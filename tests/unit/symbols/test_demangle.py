"""Names as programmers write them."""

from __future__ import annotations

import random

import pytest

from nativeleak.symbols.demangle import demangle, printable


@pytest.mark.parametrize(
    ("mangled", "expected"),
    [
        ("_Znwm", "operator new(unsigned long)"),
        ("_ZN2os6mallocEm8MEMFLAGS", "os::malloc(unsigned long, MEMFLAGS)"),
        ("_ZN12_GLOBAL__N_13fooEv", "(anonymous namespace)::foo()"),
        ("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int>>::push_back(int&&)"),
        ("_Z3runSt8functionIFvzEE", "run(std::function<void (...)>)"),
        ("_RNvC6_123foo3bar", "123foo::bar"),
        ("_RNvMs_Cs4fqI2P2rA04_8my_crateNtB4_3Foo3new", "<my_crate::Foo>::new"),
        ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
        ("_ZN36_$LT$T$u20$as$u20$core..any..Any$GT$7type_id17h0123456789abcdefE", "<T as core::any::Any>::type_id"),
        ("malloc", "malloc"),
        ("runtime.mallocgc", "runtime.mallocgc"),
        ("main.part", "main.part"),
        ("_Zinvalid", "_Zinvalid"),
        ("_R", "_R"),
        ("", ""),
        ("_", "_"),
    ],
)
def test_demangle_name_is_as_in_the_source(mangled: str, expected: str) -> None:
    assert demangle(mangled) == expected


@pytest.mark.parametrize(
    ("mangled", "expected"),
    [
        ("_Z3foov.constprop.0", "foo()"),
        ("_Z3foov.isra.0.constprop.12", "foo()"),
        ("_Z3foov.part.0.cold", "foo() [clone .cold]"),
        ("_Z3foov.cold", "foo() [clone .cold]"),
        ("_Z3foov.cold.1", "foo() [clone .cold]"),
        ("_Z3foov.llvm.1234567890", "foo()"),
        ("_Z3foov.localalias", "foo()"),
        ("c_function.lto_priv.0", "c_function"),
        ("c_function.cold", "c_function [clone .cold]"),
        (".cold", ".cold"),
    ],
)
def test_demangle_clone_suffix_is_dropped_but_for_cold(mangled: str, expected: str) -> None:
    assert demangle(mangled) == expected


@pytest.mark.parametrize(
    ("mangled", "expected"),
    [
        (
            "_ZSt11make_sharedI7SessionJEESt10shared_ptrINSt9enable_ifIXntsrSt8is_arrayIT_E5valueES2_E4typeEEDpOT0_",
            "std::make_shared<...>",
        ),
        ("_ZN3foo3barEXX", "foo::bar"),
        ("_ZN3foo99999barE", "_ZN3foo99999barE"),
        ("_Zfoo", "_Zfoo"),
    ],
)
def test_demangle_refused_name_keeps_what_can_be_read_of_it(mangled: str, expected: str) -> None:
    assert demangle(mangled) == expected


def test_demangle_hostile_names_never_raise() -> None:
    chooser = random.Random(7)
    alphabet = "_ZNSt3fooIiEvRP0123456789$.\0\x1b\udc80é "
    for _ in range(3000):
        name = chooser.choice(("_Z", "_ZN", "_R", "")) + "".join(chooser.choices(alphabet, k=chooser.randrange(40)))
        assert printable(demangle(name)) == demangle(name)
    assert demangle("_Z" + "N" * 100_000) == "_Z" + "N" * 4094 + "..."


def test_demangle_name_that_doubles_itself_is_left_alone() -> None:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    doubling = [f"S_IS{digit}_S{digit}_E" for digit in digits]
    assert demangle("_Z1f1PIiiE" + "".join(doubling[:3])).count("P<int, int>") == 1 + 2 + 4 + 8
    bomb = "_Z1f1PIiiE" + "".join(doubling)
    assert demangle(bomb) == bomb


@pytest.mark.parametrize(("n_levels", "n_numbers"), [(3, 2 + 4 + 8 + 16), (30, 0)])
def test_demangle_rust_tuple_that_doubles_itself_is_left_alone_when_too_long(n_levels: int, n_numbers: int) -> None:
    prefix, parts = "INvC1a1b", "TmmE"  # b::<(u32, u32)>, then tuples of twice the tuple before
    begin = len(prefix)
    for _ in range(n_levels):
        reference = f"B{base_62(begin - 1)}_"
        begin = len(prefix) + len(parts)
        parts += f"T{reference}{reference}E"
    name = f"_R{prefix}{parts}E"
    text = demangle(name)
    assert text.count("u32") == n_numbers
    assert (text == name) == (n_numbers == 0)


def base_62(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return (base_62(number // 62) if number >= 62 else "") + digits[number % 62]


def test_printable_control_characters_and_surrogates_are_replaced() -> None:
    assert printable("a\x1b[31m\n\udcffé b") == "a?[31m??é b"
