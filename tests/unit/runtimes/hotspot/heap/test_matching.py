from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nativeleak.runtimes.hotspot.heap.layout import Header, Layout
from nativeleak.runtimes.hotspot.heap.matching import Blocks, Known, Targets
from nativeleak.runtimes.hotspot.heap.pages import Window

BASE = 0x7F00_0000_0000
HEAP = 0x8000_0000


def layout(is_narrow: bool, shift: int = 3) -> Layout:
    return Layout("G1", Header.NARROW, is_narrow, 0, shift, 0, 0, 42, 39, False, 12)


def window(words: list[int], dtype: type = np.uint64) -> Window:
    return Window(HEAP, np.array(words, dtype).view(np.uint8))


def test_blocks_hit_by_first_last_and_inner_bytes_and_no_others():
    blocks = Blocks(np.array([BASE, BASE + 100_000], np.uint64), np.array([64, 4096], np.uint64))
    hits = blocks.hits(window([BASE, BASE + 63, BASE + 64, BASE - 1, BASE + 100_001, BASE + 104_096, 0, 7]))
    assert hits.places.tolist() == [0, 8, 32]
    assert hits.found.tolist() == [0, 0, 1]


def test_no_blocks_hit_nothing():
    blocks = Blocks(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    assert len(blocks.hits(window([BASE, 0])).places) == 0


@given(
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=40),
    st.lists(st.integers(0, 1 << 20), min_size=2, max_size=60),
    st.sampled_from([(True, 0), (True, 3), (False, 0)]),
)
def test_targets_hit_exactly_the_references_to_them(objects, references, how):
    is_narrow, shift = how
    written = layout(is_narrow, shift)
    base = 0x1000 if shift == 0 and is_narrow else HEAP
    addresses = np.array(sorted({base + 8 * each for each in objects}), np.uint64)
    targets = Targets(written, addresses[:1])
    targets.add(addresses[1:])
    words = written.keys(np.array([base + 8 * each for each in references], np.uint64)).tolist()
    words += [0] * (len(words) % 2)
    hits = targets.hits(window(words, np.uint32 if is_narrow else np.uint64))
    wanted = [i for i, each in enumerate(references) if base + 8 * each in set(addresses.tolist())]
    assert (hits.places // written.reference_bytes).tolist() == wanted
    assert hits.found.tolist() == [base + 8 * references[i] for i in wanted]


@given(st.lists(st.lists(st.integers(0, 200), max_size=30), max_size=20))
def test_known_gives_each_address_once(parts):
    known, seen = Known(), set()
    for part in parts:
        new = known.new_of(np.array(part, np.uint64)).tolist()
        assert new == sorted(set(part) - seen)
        seen |= set(part)
    assert len(known) == len(seen)
