"""``nativeleak doctor``: wrong usage, found before anything is tried."""

from __future__ import annotations

import pytest

from nativeleak.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["--format", "xml"], "nativeleak: Invalid value for '--format': 'xml' is not one of 'text', 'json'."),
        (["-p", "java"], "nativeleak: Invalid value for '-p' / '--pid': 'java' is not a valid integer."),
        (["4711"], "nativeleak: Got unexpected extra argument (4711)"),
        (["--ns-of", "4711"], "nativeleak: --ns-of 4711 needs --ns-pid"),
    ],
)
def test_wrong_usage_is_refused_in_one_line_with_what_to_do(arguments, first, capfd):
    assert run(["doctor", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == first
    assert len(captured.err.splitlines()) > 1
