"""Which of several symbols names an address."""

from __future__ import annotations

import pytest

from nativeleak.symbols.elf import BytesSource, ElfFile
from nativeleak.symbols.symtab import SymbolTable
from unit.symbols.conftest import Sym, make_elf

NOTYPE, OBJECT, IFUNC = 0, 1, 10
LOCAL = 0


def table(*symbols: Sym) -> SymbolTable:
    elf = ElfFile(BytesSource(make_elf(symbols)))
    assert elf.symtab is not None
    return SymbolTable(elf, elf.symtab)


def test_lookup_inside_a_function_gives_name_and_offset() -> None:
    names = table(Sym("second", 0x1100, 0x20), Sym("first", 0x1000, 0x40))
    assert names.lookup(0x1000) == ("first", 0, True)
    assert names.lookup(0x103F) == ("first", 0x3F, True)
    assert names.lookup(0x1110) == ("second", 0x10, True)


def test_lookup_behind_the_end_of_a_sized_function_is_none() -> None:
    names = table(Sym("first", 0x1000, 0x40), Sym("second", 0x1100, 0x20))
    assert names.lookup(0x1040) is None
    assert names.lookup(0x1120) is None
    assert names.lookup(0xFFF) is None


def test_lookup_function_without_size_reaches_to_the_next_in_its_section() -> None:
    names = table(Sym("label", 0x1000), Sym("next", 0x1100, 0x20), Sym("last", 0x1F00))
    assert names.lookup(0x10FF) == ("label", 0xFF, False)
    assert names.lookup(0x1FFF) == ("last", 0xFF, False)
    assert names.lookup(0x2000) is None  # another section begins


def test_lookup_label_inside_a_function_is_not_taken_for_it() -> None:
    names = table(Sym("outer", 0x1000, 0x100), Sym("label", 0x1010, kind=NOTYPE), Sym("inner", 0x1040, 0x10))
    assert names.lookup(0x1020) == ("outer", 0x20, True)
    assert names.lookup(0x1044) == ("inner", 4, True)
    assert names.lookup(0x1080) == ("outer", 0x80, True)


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        (["__libc_malloc", "malloc"], "malloc"),
        (["cfree", "__libc_free", "free", "__free"], "free"),
        (["_Znwm", "tc_new"], "_Znwm"),
        (["_ZN1AC2Ev", "_ZN1AC1Ev"], "_ZN1AC1Ev"),
    ],
)
def test_lookup_aliases_the_plain_name_wins_in_any_order(aliases: list[str], expected: str) -> None:
    for names in (aliases, aliases[::-1]):
        found = table(*(Sym(name, 0x1000, 0x40) for name in names)).lookup(0x1008)
        assert found == (expected, 8, True)


def test_lookup_global_name_wins_over_local_and_function_over_label() -> None:
    names = table(
        Sym("a", 0x1000, 0x40, binding=LOCAL),
        Sym("__global", 0x1000, 0x40),
        Sym("b", 0x1100, 0x40, kind=NOTYPE),
        Sym("function", 0x1100, 0x40),
        Sym("c", 0x1200),
        Sym("sized", 0x1200, 0x10),
    )
    assert [names.lookup(vaddr) for vaddr in (0x1001, 0x1101, 0x1201)] == [
        ("__global", 1, True),
        ("function", 1, True),
        ("sized", 1, True),
    ]


def test_lookup_of_data_undefined_and_mapping_symbols_is_none() -> None:
    names = table(
        Sym("object", 0x1000, 0x40, kind=OBJECT),
        Sym("undefined", 0x1100, 0x40, section=0),
        Sym("$x", 0x1200, kind=NOTYPE),
        Sym("in_data", 0x3000, 0x40, kind=NOTYPE, section=2),
    )
    assert [names.lookup(vaddr) for vaddr in (0x1000, 0x1100, 0x1204, 0x3000)] == [None] * 4


def test_lookup_ifunc_and_version_in_the_name_are_plain_functions() -> None:
    names = table(Sym("memcpy@@GLIBC_2.14", 0x1000, 0x40, kind=IFUNC))
    assert names.lookup(0x1004) == ("memcpy", 4, True)


def test_lookup_long_name_is_read_whole() -> None:
    name = "_Z" + "x" * 5000
    assert table(Sym(name, 0x1000, 8), Sym("y", 0x1008, 8)).lookup(0x1000) == (name, 0, True)


def test_lookup_no_functions_at_all_is_none() -> None:
    assert table().lookup(0x1000) is None


def test_symbol_table_200_000_functions_take_twelve_bytes_each() -> None:
    names = table(*(Sym(f"f{number}", 0x1000 + 4 * (number ^ 0x55), 4) for number in range(200_000)))
    assert (len(names), names.n_bytes) == (200_000, 2_400_000)
    assert names.lookup(0x1000 + 4 * (123_456 ^ 0x55) + 2) == ("f123456", 2, True)
