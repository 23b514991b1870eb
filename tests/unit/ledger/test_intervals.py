"""The interval map against a dict of single addresses, and its chunks under many pieces."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from nativeleak.ledger import intervals
from nativeleak.ledger.intervals import IntervalMap

N = 48
SPLICE = st.tuples(
    st.integers(0, N),
    st.sampled_from([0, 1, 1, 1, 2, 3, 11]),
    st.sampled_from(["a", "b", "c", None]),
    st.booleans(),
    st.sampled_from([0, 0, 0, 1]),
)


def check(found: IntervalMap[str], expected: dict[int, tuple[str, bool]]) -> None:
    pieces = list(found)
    assert {at: piece[2:] for piece in pieces for at in range(piece[0], piece[1])} == expected
    assert len(found) == len(pieces)
    assert found.end == (pieces[-1][1] if pieces else 0)
    for left, right in itertools.pairwise(pieces):
        assert left[0] < left[1] <= right[0] < right[1]
        assert left[1] < right[0] or left[2:] != right[2:]
    assert [piece for chunk in found._pieces for piece in chunk] == pieces
    assert [[piece[0] for piece in chunk] for chunk in found._pieces] == found._starts
    if pieces:
        assert found._firsts == [starts[0] for starts in found._starts]


@settings(max_examples=300, deadline=None)
@given(st.lists(SPLICE, min_size=30, max_size=90))
def test_splice_any_sequence_agrees_with_single_addresses(splices):
    size = intervals._CHUNK
    intervals._CHUNK = 2  # so that nearly every splice crosses chunks
    try:
        found: IntervalMap[str] = IntervalMap()
        expected: dict[int, tuple[str, bool]] = {}
        for start, length, value, accessible, inset in splices:
            end = start + length
            lo, hi = start + inset, end - inset
            new = [(lo, hi, value, accessible)] if value and lo < hi else []
            inside = {at: expected.pop(at) for at in range(start, end) if at in expected}
            overlapping = found.overlapping(start, end)
            gaps = found.gaps(start, end)
            removed = found.splice(start, end, new)
            assert overlapping == removed
            assert {at: piece[2:] for piece in removed for at in range(piece[0], piece[1])} == inside
            assert [at for gap in gaps for at in range(*gap)] == [at for at in range(start, end) if at not in inside]
            expected |= {at: piece[2:] for piece in new for at in range(piece[0], piece[1])}
            check(found, expected)
    finally:
        intervals._CHUNK = size


def test_splice_many_pieces_keeps_chunks_within_bounds():
    found: IntervalMap[int] = IntervalMap()
    places = list(range(0, 3 * 7919, 3))
    random.Random(7).shuffle(places)
    for place in places:
        found.splice(place, place + 2, [(place, place + 2, place, True)])
    assert len(found) == 7919
    assert max(map(len, found._pieces)) <= 2 * intervals._CHUNK
    removed = found.splice(301, 3 * 7907, [(302, 303, -1, False)])
    assert sum(end - start for start, end, _, _ in removed) == 2 * (7907 - 101) + 1
    assert len(found) == 7919 - (7907 - 101) + 1
    assert max(map(len, found._pieces)) <= 2 * intervals._CHUNK


def test_clear_after_use_leaves_an_empty_map():
    found: IntervalMap[str] = IntervalMap()
    found.splice(3, 5, [(3, 5, "a", True)])
    found.clear()
    check(found, {})
    assert found.splice(0, 10) == []
