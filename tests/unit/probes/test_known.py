"""Which allocators are well-known, by their functions."""

from __future__ import annotations

import pytest

from nativeleak.probes.families import Affix
from nativeleak.probes.known import is_known_family, is_known_plain


@pytest.mark.parametrize(
    "offsets",
    [
        {"malloc": 16, "__libc_malloc": 16},
        {"malloc": 16, "default_malloc": 16},
        {"malloc": 16, "__dls3": 64},
        {"malloc": 16, "tc_malloc": 16},
        {"malloc": 16, "mi_malloc": 16},
        {"malloc": 16, "mallocx": 64},
    ],
)
def test_malloc_of_a_library_is_known(offsets: dict[str, int]) -> None:
    assert is_known_plain(offsets)


@pytest.mark.parametrize(
    "offsets",
    [
        {},
        {"malloc": 16},
        {"malloc": 16, "__libc_malloc": 64},  # a program's own, linked with the C library statically
        {"malloc": 16, "mi_malloc": 64},  # a function around mimalloc's
        {"__libc_malloc": 16, "mallocx": 64},
    ],
)
def test_own_malloc_is_not_known(offsets: dict[str, int]) -> None:
    assert not is_known_plain(offsets)


@pytest.mark.parametrize(
    ("affix", "functions", "is_known"),
    [
        (Affix("_rjem_"), ("_rjem_malloc", "_rjem_sdallocx"), True),
        (Affix("je_"), ("je_malloc", "je_mallctl"), True),
        (Affix("arrow_mi_"), ("arrow_mi_malloc", "arrow_mi_malloc_aligned"), True),
        (Affix("tc_"), ("tc_malloc", "tc_malloc_skip_new_handler"), True),
        (Affix("acme_"), ("acme_malloc", "acme_free", "acme_malloc_aligned"), False),
        (Affix("je_"), ("je_malloc", "je_free", "mallctl"), False),
        (Affix("dl"), ("dlmalloc", "dlfree", "dlmalloc_usable_size"), False),
    ],
)
def test_family_is_known_by_its_own_functions(affix: Affix, functions: tuple[str, ...], is_known: bool) -> None:
    assert is_known_family(affix, functions) is is_known
