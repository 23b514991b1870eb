"""Figures reach the page's script as they were."""

from __future__ import annotations

import numpy as np
import pytest

from nativeleak.reports.html.columns import encode
from nativeleak.reports.html.profile import pick_moments
from support.page import unpack


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], np.uint8),
        ([-128, 127], np.int8),
        ([0, 65535], np.uint16),
        ([-32768, 128], np.int16),
        ([1 << 31], np.uint32),
        ([-(1 << 31), 1], np.int32),
        ([(1 << 53) - 1, -1], np.float64),
        ([0.25, -1e300], np.float64),
        ([], np.uint8),
    ],
)
def test_columns_come_back_in_the_smallest_type(values: list[float], kind: type) -> None:
    column = np.array(values, dtype=np.int64 if all(isinstance(each, int) for each in values) else np.float64)
    facts, columns = unpack(encode({"name": "\u2028</script>"}, {"a": column, "b": np.arange(3)}))
    assert facts == {"name": "\u2028</script>"}
    assert columns["a"].tolist() == values
    assert columns["a"].dtype == kind
    assert columns["b"].tolist() == [0, 1, 2]


def test_columns_are_text_that_ends_no_element() -> None:
    text = encode({"name": "</script><!--"}, {})
    assert text.isascii()
    assert "<" not in text


def test_moments_of_a_short_trace_are_all_kept() -> None:
    assert pick_moments([1.0, 2.0, 5.0], 10) == [0, 1, 2]


def test_moments_of_a_long_trace_are_at_equal_times_with_the_last() -> None:
    times = [float(i) for i in range(1000)]
    picked = pick_moments(times, 50_000)
    assert len(picked) <= 25
    assert picked[0] == 0
    assert picked[-1] == 999
    steps = np.diff(picked)
    assert steps.max() - steps.min() <= 1


def test_moments_of_no_snapshot_are_none() -> None:
    assert pick_moments([], 0) == []
