"""No name of a traced process becomes HTML."""

from __future__ import annotations

from nativeleak.reports.html.markup import Markup, cell, render, table, tag

HOSTILE = "<img src=x onerror=alert(1)>\"'&\x1b[31m\u202e"


def test_text_is_escaped_and_control_characters_are_visible() -> None:
    assert render(HOSTILE) == "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;\\x1b[31m\\u202e"


def test_attributes_cannot_be_left() -> None:
    made = tag("i", "x", title=HOSTILE, class_="a", data_x="1", hidden=True, lang=None, open=False)
    assert made.startswith('<i title="&lt;img')
    assert made.endswith('class="a" data-x="1" hidden>x</i>')
    assert made.count('"') == 6


def test_only_markup_stays_as_it_is() -> None:
    assert tag("p", "a<", Markup("<b>b</b>"), ["c", None, tag("br")]) == "<p>a&lt;<b>b</b>c<br></p>"


def test_table_cells_keep_their_values() -> None:
    made = table([("n", "number"), ("name", "")], [[cell("1 KiB", 1024), HOSTILE]])
    assert '<td class="number" data-value="1024">1 KiB</td><td>&lt;img' in made


def test_text_that_looks_like_a_cell_is_text() -> None:
    assert "<td>&lt;td onclick=1&gt;</td>" in table([("a", "")], [["<td onclick=1>"]])
