"""``nativeleak demo``: wrong usage, found before its program is started."""

from __future__ import annotations

import pytest

from nativeleak.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["--duration", "soon"], "nativeleak: Invalid value for '--duration': not a duration: 'soon' (write "),
        (["--duration", "0"], "nativeleak: Invalid value for '--duration': a duration must be longer than zero"),
        (["--format", "xml"], "nativeleak: Invalid value for '--format': 'xml' is not one of "),
        (["out.nlk"], "nativeleak: Got unexpected extra argument (out.nlk)"),
    ],
)
def test_wrong_usage_is_refused_in_one_line_with_what_to_do(arguments, first, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["demo", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(first)
    assert "`nativeleak demo --help`" in captured.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
