"""Two lists of ranges compared: rows add up, whatever grew, was cut, joined or went."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativeleak.errors import UsageError
from nativeleak.triage.difference import Moment, differences, parse_moment, render_changes
from nativeleak.triage.lines import Piece


def _piece(start: int, end: int, resident: int = 0, line: str = "unexplained", name: str = "x") -> Piece:
    return Piece(start, end, line, name, resident, 0)


def test_what_grew_went_and_came_is_listed_by_growth_and_the_rest_is_not() -> None:
    before = [_piece(0, 10, 5), _piece(20, 30, 7), _piece(40, 50, 1, "malloc-live", "main")]
    after = [_piece(0, 10, 5), _piece(40, 70, 25, "malloc-live", "main"), _piece(80, 90, 3)]
    changes = differences(before, after)
    assert [(each.state, each.growth) for each in changes] == [("changed", 24), ("new", 3), ("gone", -7)]
    assert (changes[0].start, changes[0].end, changes[0].line) == (40, 70, "malloc-live")
    text = render_changes(Moment(1, "a", 5, 10.0, tuple(before)), Moment(1, "a", 5, 20.0, tuple(after)), changes)
    assert "13 B resident, then 33 B, 10s later" in text
    assert text.splitlines()[-1].endswith("3 ranges changed")


def test_a_range_that_was_cut_is_compared_with_its_parts() -> None:
    changes = differences([_piece(0, 100, 50)], [_piece(0, 40, 10), _piece(60, 100, 20)])
    assert [(each.start, each.end, each.resident, each.size) for each in changes] == [(0, 100, (50, 30), (100, 80))]


_ranges = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 9)), max_size=30)


def _laid_out(rows: list[tuple[int, int, int]]) -> list[Piece]:
    pieces, place = [], 0
    for size, gap, resident in rows:
        pieces.append(_piece(place + gap, place + gap + size, resident))
        place += gap + size
    return pieces


@given(_ranges, _ranges)
def test_rows_add_up_to_the_change_of_resident_memory(
    first: list[tuple[int, int, int]], second: list[tuple[int, int, int]]
) -> None:
    before, after = _laid_out(first), _laid_out(second)
    changes = differences(before, after)
    assert sum(each.growth for each in changes) == sum(p.resident for p in after) - sum(p.resident for p in before)
    spans = sorted((each.start, each.end) for each in changes)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "nativeleak.maps/1"}', '{"schema": "nativeleak.report/1", "sites": []}',
     json.dumps({"schema": "nativeleak.maps/1", "target": {"pid": 1, "comm": "a"},
                 "ranges": [{"start": "0x5", "end": "0x1", "line": "x", "name": "", "resident_bytes": 1,
                             "swap_bytes": 0}]})],
)  # fmt: skip
def test_a_file_that_is_no_list_of_ranges_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"a\.json"):
        parse_moment(text, Path("a.json"))
