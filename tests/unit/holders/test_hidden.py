"""Pointers that are not stored as addresses, and words that only look like them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nativeleak.heaps.memory import Words
from nativeleak.holders.hidden import HiddenSearch
from nativeleak.holders.windows import Runs

BASE = 0x55AB_0000_0010
MAPPED = [(0x55AB_0000_0000, 0x55AB_1000_0000)]


def _starts(n: int) -> Words:
    rng = np.random.default_rng(5)
    return np.sort(np.unique(BASE + 16 * rng.integers(0, 1 << 20, n))).astype(np.uint64)


def _search(starts: Words, data: bytes, mapped: Sequence[tuple[int, int]] = MAPPED) -> list[int]:
    search = HiddenSearch(starts, starts + np.uint64(16), mapped)
    padded = np.frombuffer(data + bytes(-len(data) % 8), np.uint8)
    search.look(Runs(padded, np.array([0x9000], np.uint64), np.array([0]), np.array([padded.nbytes])))
    return np.flatnonzero(search.result()).tolist()


def test_compressed_pointers_are_found_by_their_company() -> None:
    starts = _starts(1000)
    for shift in (0, 3, 4):
        halves = (starts[100:150] >> np.uint64(shift)).astype(np.uint32)
        assert _search(starts, halves.tobytes()) == list(range(100, 150))


def test_halves_of_pointers_to_other_memory_are_no_compressed_pointers() -> None:
    starts = _starts(1000)
    library = 0x7F39_0000_0000
    words = np.uint64(library) | starts[100:150] & np.uint64(0xFFFF_FFFF)
    assert len(_search(starts, words.tobytes())) == 50, "nothing is mapped there"
    assert _search(starts, words.tobytes(), [*MAPPED, (library, library + (1 << 32))]) == []


def test_one_chance_hit_alone_is_none() -> None:
    starts = _starts(1000)
    assert _search(starts, (starts[5] >> np.uint64(4)).astype(np.uint32).tobytes()) == []


def test_pointers_xored_with_a_constant_are_found_and_tagged_ones_are_not() -> None:
    starts = _starts(1000)
    assert _search(starts, (starts[7:40] ^ np.uint64(0x1122334455667788)).tobytes()) == list(range(7, 40))
    tagged = starts[7:40] | np.uint64(0x77 << 48)
    search = HiddenSearch(starts, starts + np.uint64(16), MAPPED)
    search.look(Runs(tagged.view(np.uint8), np.array([0x9000], np.uint64), np.array([0]), np.array([tagged.nbytes])))
    assert search._runs == []
