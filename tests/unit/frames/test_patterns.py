"""Patterns that are compiled at their first use."""

from __future__ import annotations

import re

import pytest

from nativeleak.frames.patterns import Pattern


def test_pattern_answers_as_a_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = Pattern(r"a+ | B", re.VERBOSE | re.IGNORECASE)
    compiled = re.compile(r"a+ | B", re.VERBOSE | re.IGNORECASE)
    for text in ("aaa", "b", "xaab", "", "aab"):
        for name in ("match", "fullmatch", "search"):
            found, expected = getattr(pattern, name)(text), getattr(compiled, name)(text)
            assert (found and found.span()) == (expected and expected.span())
    monkeypatch.setattr(re, "compile", None)
    assert pattern.match("a"), "it was compiled before"


def test_bad_expression_says_so_at_its_first_use() -> None:
    with pytest.raises(re.error):
        Pattern("(").match("a")


def test_pattern_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="pattern"):
        _ = Pattern("a").pattern
