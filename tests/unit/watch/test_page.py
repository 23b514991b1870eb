"""The curve of a watch's page."""

from __future__ import annotations

import re

from nativeleak.watch.as_html import curve

_MIB = 1 << 20


def test_curve_goes_from_zero_to_the_most_over_the_whole_time() -> None:
    page = curve([(10.0, 50 * _MIB), (60.0, 100 * _MIB), (110.0, 0)])
    points = re.search(r'points="([^"]+)"', page)
    assert points is not None
    assert points[1] == "0.0,101.0 500.0,2.0 1000.0,200.0"
    assert "1m 50s, from 0 to 100 MiB" in page
    assert 'aria-label="Resident memory and swap over 1m 50s, from 0 to 100 MiB"' in page


def test_curve_of_one_moment_or_of_nothing_is_a_sentence() -> None:
    assert "One moment makes no curve" in curve([(0.0, _MIB)])
    assert "One moment makes no curve" in curve([])
    assert 'points="0.0,200.0 1000.0,200.0"' in curve([(0.0, 0), (1.0, 0)])
