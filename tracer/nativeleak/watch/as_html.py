"""A watch as one HTML page, in the style of the report's: how it goes, the course of memory, lines, sizes, events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from nativeleak import __version__
from nativeleak.analysis.growth import Verdict
from nativeleak.inputs.words import CATEGORIES
from nativeleak.reports.html.markup import Content, Markup, cell, table, tag
from nativeleak.reports.html.page import document, read_parts
from nativeleak.reports.html.redact import Redactor
from nativeleak.triage.lines import LABELS
from nativeleak.units import format_bytes, format_duration
from nativeleak.watch import text
from nativeleak.watch.courses import Row

if TYPE_CHECKING:
    from nativeleak.watch.watcher import Watch

_WIDTH, _HEIGHT = 1000, 200
_SPARK: Final = (90, 26)
_MIN_SHARE: Final = 0.001

Course = Sequence[tuple[float, int]]


def render_html(watch: Watch, events: Sequence[tuple[float, str]], redactor: Redactor) -> str:
    """The page, of a watch that goes on or has ended.

    Args:
        watch: What it knows.
        events: (seconds since the beginning, sentence) of what happened.
        redactor: Hides what the page must not show.

    Raises:
        NativeleakError: The package was built without the page's style.
    """
    redactor.learn_title(watch.target.comm)
    name = redactor.text(f"{watch.target.comm} (PID {watch.options.pid})")
    body = [
        tag("header", tag("h1", name), tag("p", _facts(watch), class_="facts")),
        tag(
            "main",
            tag("section", list(_answer(watch, redactor)), id="answer"),
            tag("section", tag("h2", "Resident memory and swap"), curve(watch.course()), id="memory"),
            _lines(watch),
            _sizes(watch),
            _said(watch),
            _events(events, redactor),
            _notes(watch, redactor),
            tag("p", f"Read by nativeleak {__version__} from outside; the process was not stopped.", class_="dim"),
        ),
    ]
    return "".join(document(name, body, style=read_parts()["page.css"]))


def _facts(watch: Watch) -> str:
    readings = f"{watch.n_readings:,} full reading{'s' if watch.n_readings != 1 else ''}"
    so_far = "" if watch.reason else " so far"
    return f"watched for {format_duration(int(watch.elapsed_s))}{so_far}, {readings}"


def _answer(watch: Watch, redactor: Redactor) -> Iterator[Content]:
    held, first, now = watch.held_row, watch.first, watch.status
    kind = "unsure"
    if held is not None:
        kind = {Verdict.GROWING: "bad", Verdict.STEADY: "good"}.get(held.growth.verdict, "unsure")
    growth = f", {text.growth_text(held.growth)}" if held is not None else ""
    yield tag(
        "h2",
        f"{format_bytes(now.rss_bytes)} resident, {text.signed(now.held_bytes - first.held_bytes)} in "
        f"{format_duration(int(now.elapsed_s))}{growth}",
        class_=f"verdict {kind}",
    )
    if watch.reason == "target ended":
        yield tag("p", redactor.text(f"The process has ended: {watch.ending.text}"), class_="warning")
    if (limit := text.limit_line(watch)) is not None:
        yield tag("p", redactor.text(limit))
    steps = list(text.next_steps(watch))
    yield tag("ul", [tag("li", tag("code", redactor.text(step)), class_="next") for step in steps]) if steps else None


def curve(course: Course) -> Markup:
    """A course as a picture, with its scale in words below.

    Args:
        course: (seconds, bytes), in order of time.
    """
    if len(course) < 2:
        return tag("p", "One moment makes no curve.", class_="dim")
    most = max(n_bytes for _, n_bytes in course)
    words = f"{format_duration(int(course[-1][0]))}, from 0 to {format_bytes(most)}"
    label = f"Resident memory and swap over {words}"
    line = tag("polyline", points=_points(course, _WIDTH, _HEIGHT))
    picture = tag(
        "svg", line, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", preserveAspectRatio="none", class_="spark course", role="img",
        aria_label=label,
    )  # fmt: skip
    return Markup(picture + tag("p", words, class_="dim"))


def _spark(course: Course) -> Markup:
    if len(course) < 2:
        return Markup()
    width, height = _SPARK
    line = tag("polyline", points=_points(course, width, height))
    return tag(
        "svg", line, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", class_="spark", aria_hidden="true"
    )


def _points(course: Course, width: int, height: int) -> str:
    """Points of a line from 0 bytes at the lower edge to the most at the upper."""
    begin, end = course[0][0], course[-1][0]
    most = max(n_bytes for _, n_bytes in course) or 1
    span = (end - begin) or 1.0
    return " ".join(
        f"{width * (elapsed - begin) / span:.1f},{height - (height - 2) * n_bytes / most:.1f}"
        for elapsed, n_bytes in course
    )


def _lines(watch: Watch) -> Markup:
    if watch.reading is None:
        return tag("section", tag("p", "No full reading was made.", class_="warning"), id="lines")
    least = _MIN_SHARE * watch.reading.rss_bytes
    rows = [row for row in watch.line_rows if max(row.first_bytes, row.last_bytes) >= least]
    shown = [_row(LABELS.get(row.name, row.name), row, watch.course(row.name)) for row in rows]
    if watch.held_row is not None:
        shown.append(_row("all, and swap", watch.held_row, watch.course()))
    return tag("section", tag("h2", "By use"), table(_heads("use"), shown), id="lines")


def _heads(name: str) -> list[tuple[str, str]]:
    return [(name, ""), ("now", "number"), ("change", "number"), ("course", ""), ("growth, 95 % interval", "")]


def _row(label: str, row: Row, course: Course) -> list[Content]:
    change = row.last_bytes - row.first_bytes
    return [
        label,
        cell(format_bytes(row.last_bytes), row.last_bytes),
        cell(text.signed(change), change),
        _spark(course),
        text.growth_text(row.growth),
    ]


def _sizes(watch: Watch) -> Markup:
    if not watch.size_rows:
        return Markup()
    heads = [("bytes each", "number"), ("blocks", "number"), ("change", "number"), ("growth, 95 % interval", ""),
             ("known as", "")]  # fmt: skip
    rows = [
        [
            cell("/".join(f"{size:,}" for size in row.sizes), row.sizes[0]),
            cell(f"{row.n_last:,}", row.n_last),
            cell(f"{row.n_last - row.n_first:+,}", row.n_last - row.n_first),
            text.growth_text(row.growth),
            row.known or "",
        ]
        for row in watch.size_rows
    ]
    return tag("section", tag("h2", "Sizes of blocks that gained most"), table(heads, rows), id="sizes")


def _said(watch: Watch) -> Markup:
    rows = [row for row in watch.said_rows if row.last_bytes or row.first_bytes]
    if not rows:
        return Markup()
    shown = [
        [*_row(row.name, row, watch.said_course(row.name))[:4], text.growth_text(row.growth),
         CATEGORIES.get(row.name, "")]
        for row in rows
    ]  # fmt: skip
    title = "Committed by the JVM's own count (NMT)"
    return tag("section", tag("h2", title), table([*_heads("category"), ("contents", "")], shown), id="nmt")


def _events(events: Sequence[tuple[float, str]], redactor: Redactor) -> Markup:
    if not events:
        return Markup()
    rows = [[cell(format_duration(int(elapsed_s)), elapsed_s), redactor.text(said)] for elapsed_s, said in events]
    return tag("section", tag("h2", "What happened"), table([("after", "number"), ("", "")], rows), id="events")


def _notes(watch: Watch, redactor: Redactor) -> Markup:
    if not watch.notes:
        return Markup()
    notes = [tag("li", redactor.text(note)) for note in watch.notes]
    return tag("section", tag("h2", "Not read"), tag("ul", notes), id="notes")
