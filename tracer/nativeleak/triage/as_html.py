"""The ledger as one HTML page, in the style of the report's: verdicts, then the lines as bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from nativeleak.reports.html.markup import Content, Markup, cell, table, tag
from nativeleak.reports.html.page import document, read_parts
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.numbers import percent
from nativeleak.triage.group import group_line, group_lines
from nativeleak.triage.lines import Ledger, Line
from nativeleak.triage.text import header_text, nothing_text
from nativeleak.triage.verdicts import Verdict
from nativeleak.units import format_bytes

_MAX_PARTS: Final = 200
_MAX_SIZES: Final = 100


def render_html(
    ledger: Ledger, verdicts: Sequence[Verdict], tool_version: str, redactor: Redactor, more: Iterable[Markup] = ()
) -> str:
    """The page.

    Args:
        ledger: The lines.
        verdicts: The most important first.
        tool_version: Of nativeleak.
        redactor: Hides what the page must not show.
        more: Further sections, such as ``holders_sections``.

    Raises:
        NativeleakError: The package was built without the page's style.
    """
    redactor.learn_title(ledger.target.comm)
    name, _, rest = redactor.text(header_text(ledger)).partition(": ")
    body = [
        tag("header", tag("h1", name), tag("p", rest, class_="facts")),
        tag(
            "main",
            tag("section", list(_verdicts(ledger, verdicts, redactor)), id="answer"),
            tag("section", tag("h2", "Resident memory"), _lines(ledger), _beside(ledger, redactor), id="memory"),
            list(more),
            _parts(ledger, redactor),
            _sizes(ledger),
            _notes(ledger, redactor),
            tag("p", f"Read by nativeleak {tool_version} from outside; the process was not stopped.", class_="dim"),
        ),
    ]
    return "".join(document(name, body, style=read_parts()["page.css"]))


def _verdicts(ledger: Ledger, verdicts: Sequence[Verdict], redactor: Redactor) -> Iterator[Content]:
    if not verdicts:
        yield tag("h2", redactor.text(nothing_text(ledger)), class_="verdict good")
    for number, verdict in enumerate(verdicts):
        words = [tag("small", verdict.certainty), " ", redactor.text(verdict.text)]
        yield tag("h2" if number == 0 else "h3", words, class_="verdict")
        said = [tag("li", redactor.text(each)) for each in verdict.evidence]
        said += [tag("li", tag("code", redactor.text(each)), class_="next") for each in verdict.next]
        yield tag("ul", said) if said else None


def _lines(ledger: Ledger) -> Markup:
    rows = [_row(ledger, line.label, line) for line in sorted(ledger.lines, key=lambda each: -each.resident)]
    rows.append(_row(ledger, "sum", Line("unexplained", ledger.rss, ledger.swap)))
    numbers = ("resident", "share", *(("swap",) if ledger.swap else ()), "used")
    return table([("use", ""), *((name, "number") for name in numbers), ("", "")], rows)


def _row(ledger: Ledger, label: str, line: Line) -> list[Content]:
    pct = 100 * line.resident / ledger.rss if ledger.rss else 0.0
    swap: list[Content] = [cell(format_bytes(line.swap), line.swap)] if ledger.swap else []
    used = format_bytes(line.used) if line.used is not None else "unknown" if line.owner else ""
    return [
        label,
        cell(format_bytes(line.resident), line.resident),
        cell(percent(pct), pct),
        *swap,
        cell(used, line.used or 0),
        _bar(pct),
    ]


def _bar(pct: float) -> Markup:
    bar = tag("rect", width=f"{pct:.2f}", height="10")
    return tag("svg", bar, viewBox="0 0 100 10", preserveAspectRatio="none", class_="bar", aria_hidden="true")


def _beside(ledger: Ledger, redactor: Redactor) -> Markup:
    text = (
        f"Beside it: page tables {format_bytes(ledger.page_tables)}, {ledger.n_threads:,} threads, "
        f"{ledger.n_regions:,} mappings, {format_bytes(ledger.virtual)} of address space."
    )
    charged = group_line(ledger)
    said = [text] if charged is None else [text, charged]
    beside = "".join(tag("p", redactor.text(each), class_="dim") for each in said)
    return Markup(beside + _groups(ledger, redactor))


def _groups(ledger: Ledger, redactor: Redactor) -> Markup:
    rows = [tag("li", redactor.text(each)) for each in group_lines(ledger)]
    if not rows:
        return Markup()
    return tag("details", tag("summary", f"Control groups: {len(ledger.charges)}"), tag("ul", rows))


def _parts(ledger: Ledger, redactor: Redactor) -> Markup:
    found = [(line.label, name, size) for line in ledger.lines for name, size in line.detail if size]
    if not found:
        return Markup()
    found.sort(key=lambda each: -each[2])
    rows = [[cell(format_bytes(size), size), label, redactor.text(name)] for label, name, size in found[:_MAX_PARTS]]
    title = f"Largest parts: {len(rows):,} of {len(found):,}"
    heads = [("resident", "number"), ("use", ""), ("part", "")]
    return tag("section", tag("details", tag("summary", title), table(heads, rows)), id="parts")


def _sizes(ledger: Ledger) -> Markup:
    found = [(size, count) for walk in ledger.walks for size, count in walk.sizes.items()]
    if not found:
        return Markup()
    found.sort(key=lambda each: -each[0] * each[1])
    rows = [
        [
            cell(format_bytes(size * count), size * count),
            cell(f"{count:,}", count),
            cell(f"{size:,}", size),
            ledger.known_as(size) or "",
        ]
        for size, count in found[:_MAX_SIZES]
    ]
    heads = [("together", "number"), ("blocks", "number"), ("bytes each", "number"), ("known as", "")]
    return tag("section", tag("h2", "Blocks in use by size"), table(heads, rows), id="sizes")


def _notes(ledger: Ledger, redactor: Redactor) -> Markup:
    if not ledger.notes:
        return Markup()
    notes = [tag("li", redactor.text(note)) for note in ledger.notes]
    return tag("section", tag("h2", "Not read"), tag("ul", notes), id="notes")
