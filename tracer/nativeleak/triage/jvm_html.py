"""What a JVM says of its own memory, as a section of the page of triage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nativeleak.inputs.words import CATEGORIES
from nativeleak.reports.html.markup import Content, Markup, cell, lines, table, tag
from nativeleak.reports.html.redact import Redactor
from nativeleak.triage.jvm_word import NMT, ON_REQUEST, Compared, JvmWord
from nativeleak.units import format_bytes


def jvm_section(word: JvmWord, compared: Sequence[Compared], redactor: Redactor) -> Markup:
    """Amounts of both sides, NMT by category, answers to what was asked by name, what was not answered.

    Args:
        word: What the JVM said.
        compared: Amounts of both sides.
        redactor: Hides what the page must not show.
    """
    title = tag("h2", "The JVM itself")
    if word.refusal:
        refused = tag("p", f"It was not asked: {redactor.text(word.refusal)}", class_="warning")
        return tag("section", title, refused, id="jvm")
    return tag("section", title, _compared(compared), _nmt(word), list(_answers(word, redactor)), id="jvm")


def _compared(compared: Sequence[Compared]) -> Markup:
    rows: list[list[Content]] = []
    for each in compared:
        apart = 100 * (each.seen_bytes - each.said_bytes) / each.said_bytes if each.said_bytes else 0.0
        rows.append([
            each.name,
            cell(format_bytes(each.seen_bytes), each.seen_bytes),
            cell(format_bytes(each.said_bytes), each.said_bytes),
            cell(f"{apart:+.1f} %" if each.should_equal else "", apart),
            each.note or each.source,
        ])  # fmt: skip
    heads = [("", ""), ("seen here", "number"), ("it says", "number"), ("apart", "number"), ("", "")]
    return table(heads, rows) if rows else Markup()


def _nmt(word: JvmWord) -> Markup:
    values = word.values(NMT)
    categories = values.get("categories", {})
    if not categories:
        is_off = False in values.get("enabled", {}).values()
        said = "NMT is off: start the JVM with -XX:NativeMemoryTracking=summary; it costs about 2 %."
        return tag("p", said, class_="dim") if is_off else Markup()
    order = sorted(categories.items(), key=lambda item: -item[1].get("committed", 0))
    rows = [
        [name, cell(format_bytes(each.get("committed", 0)), each.get("committed", 0)), CATEGORIES.get(name, "")]
        for name, each in order
    ]
    return Markup(tag("h3", "Native Memory Tracking") + table([("", ""), ("committed", "number"), ("", "")], rows))


def _answers(word: JvmWord, redactor: Redactor) -> Iterator[Content]:
    for said in word.said:
        if said.reading is None:
            yield tag("p", f"{said.command}: {redactor.text(said.why)}", class_="warning")
        elif said.command in ON_REQUEST:
            answer = lines(map(redactor.text, said.reading.lines), class_="stack")
            yield tag("details", tag("summary", f"{said.command}: {said.reading.title}"), answer, open=True)
        if said.reading is not None and said.reading.n_unread:
            text = f"{said.command}: {said.reading.n_unread} lines not understood: {said.reading.first_unread}"
            yield tag("p", redactor.text(text), class_="warning")
