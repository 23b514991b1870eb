"""HTML as text that is safe to write: whatever was not made by ``tag`` is escaped.

Caveat: names of attributes and elements are ours; only their values and contents may come from a traced process.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final, TypeAlias

from nativeleak.reports.names import printable

_VOID: Final = frozenset({"meta", "br", "input", "hr", "link"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"


def render(content: Content) -> Markup:
    """HTML of some content; control characters of names become visible escapes."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(printable(content)))
    return Markup("".join(map(render, content)))


def tag(element: str, *content: Content, **attributes: str | bool | None) -> Markup:
    """One element.

    Args:
        element: Its name.
        content: Text, markup, or a list of both.
        attributes: ``class_`` is class, and ``_`` stands for ``-``. None and False leave an attribute out, True
            writes it without a value.
    """
    written = ""
    for key, value in attributes.items():
        if value is not None and value is not False:
            shown = key.rstrip("_").replace("_", "-")
            written += f" {shown}" if value is True else f' {shown}="{escape(printable(value))}"'
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{render(content)}</{element}>")


def table(
    heads: Iterable[tuple[str, str]], rows: Iterable[Iterable[Content]], **attributes: str | bool | None
) -> Markup:
    """A table whose columns can be sorted.

    Args:
        heads: Heading and class of each column: ``number`` or empty.
        rows: Cells; a cell made by ``cell`` keeps its own attributes.
        attributes: Of the table.
    """
    heads = list(heads)
    head = tag("tr", [tag("th", name, class_=kind or None, scope="col") for name, kind in heads])
    body = [
        tag(
            "tr",
            [
                each if is_cell(each) else tag("td", each, class_=kind or None)
                for each, (_, kind) in zip(row, heads, strict=True)
            ],
        )
        for row in rows
    ]
    inner = tag("table", tag("thead", head), tag("tbody", body), **attributes)
    return tag("div", inner, class_="scroll", tabindex="0")


def cell(content: Content, value: float) -> Markup:
    """A cell of a number, sorted by its value."""
    return tag("td", content, class_="number", data_value=f"{value:.17g}")


def lines(content: Iterable[str], **attributes: str | bool | None) -> Markup:
    """Lines of text as they are, one below the other."""
    return tag("pre", [[each, Markup("\n")] for each in content], **attributes)


def is_cell(content: Content) -> bool:
    """Whether some content is a cell already."""
    return isinstance(content, Markup) and content.startswith("<td")
