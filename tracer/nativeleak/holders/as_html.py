"""Who holds the blocks, as sections of a page: Java objects, lost blocks, holders, classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nativeleak.holders.result import HoldersReport, LostBlocks
from nativeleak.holders.text import TITLES
from nativeleak.reports.html.markup import Content, Markup, cell, lines, table, tag
from nativeleak.reports.html.redact import Redactor
from nativeleak.runtimes.hotspot.heap.text import holders_java_text
from nativeleak.units import format_bytes

_MAX_ROWS: Final = 200
_SIZES: Final = [("together", "number"), ("blocks", "number")]


def holders_sections(report: HoldersReport, redactor: Redactor) -> Iterator[Markup]:
    """The sections, in the order of the text.

    Args:
        report: What was found.
        redactor: Hides what the page must not show.
    """
    seen = report.completeness
    heaps = " and ".join(kind for kind, _ in report.allocators)
    facts = (
        f"{seen.n_blocks:,} live blocks of {heaps}, {format_bytes(seen.n_bytes)}; {seen.n_scans} of "
        f"{seen.wanted_scans} scans, {format_bytes(seen.read_bytes)} read in {seen.seconds:.1f} s"
    )
    notes = [tag("li", redactor.text(note)) for note in report.notes]
    yield tag(
        "section", tag("h2", "Who holds it"), tag("p", facts, class_="dim"), list(_java(report, redactor)),
        list(_lost(report, redactor)), tag("ul", notes) if notes else None, id="holders",
    )  # fmt: skip
    if report.holders:
        yield tag("section", tag("h2", "Held by (nearest holder)"), _holders(report, redactor), id="held-by")
    if report.classes:
        yield tag("section", tag("h2", "C++ classes"), _classes(report, redactor), id="classes")


def _java(report: HoldersReport, redactor: Redactor) -> Iterator[Content]:
    if report.java is not None:
        yield tag("h3", "Java objects")
        said = holders_java_text(report.java, show_all=True).rstrip("\n")
        yield lines(redactor.text(said).split("\n"), class_="stack")


def _lost(report: HoldersReport, redactor: Redactor) -> Iterator[Content]:
    if report.lost is None:
        yield tag("h3", f"Lost blocks: not known: {redactor.text(report.why_not_lost)}")
        return
    for lost in report.lost:
        if not lost.n_blocks:
            yield tag("h3", "No block is lost: a pointer leads to each of them.")
            continue
        title = f"{lost.n_blocks:,} blocks, {format_bytes(lost.n_bytes)}"
        yield tag("h3", tag("small", f"{TITLES[lost.grade]}, {lost.certainty}"), " ", title)
        if lost.why:
            yield tag("p", redactor.text(lost.why), class_="dim")
        yield _groups(lost, redactor)


def _groups(lost: LostBlocks, redactor: Redactor) -> Markup:
    rows = [
        [
            cell(format_bytes(group.n_bytes), group.n_bytes),
            cell(f"{group.n_blocks:,}", group.n_blocks),
            cell(f"{group.block_bytes:,}", group.block_bytes),
            redactor.text(group.class_name or group.hint),
        ]
        for group in lost.groups[:_MAX_ROWS]
    ]
    return table([*_SIZES, ("bytes each", "number"), ("what", "")], rows)


def _holders(report: HoldersReport, redactor: Redactor) -> Markup:
    rows = [
        [
            cell(format_bytes(each.n_bytes), each.n_bytes),
            cell(f"{each.n_blocks:,}", each.n_blocks),
            cell(format_bytes(each.exclusive_bytes), each.exclusive_bytes),
            redactor.text(each.label.name),
        ]
        for each in report.holders[:_MAX_ROWS]
    ]
    return table([*_SIZES, ("only by it", "number"), ("holder", "")], rows)


def _classes(report: HoldersReport, redactor: Redactor) -> Markup:
    rows = [
        [
            cell(format_bytes(each.n_bytes), each.n_bytes),
            cell(f"{each.n_objects:,}", each.n_objects),
            cell("" if each.retained_bytes is None else format_bytes(each.retained_bytes), each.retained_bytes or 0),
            cell(f"{each.n_lost:,}" if each.n_lost else "", each.n_lost),
            redactor.text(each.name),
        ]
        for each in report.classes[:_MAX_ROWS]
    ]
    heads = [("together", "number"), ("objects", "number"), ("retained", "number"), ("lost", "number"), ("class", "")]
    return table(heads, rows)
