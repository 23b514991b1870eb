"""The report of many recordings as one HTML page without a script: tables of hosts, processes and call paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from nativeleak import __version__
from nativeleak.analysis.growth import Growth
from nativeleak.analysis.naming import shown_name
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.held import fate_words
from nativeleak.reports.html.markup import Content, Markup, cell, table, tag
from nativeleak.reports.html.page import document, read_parts
from nativeleak.reports.merged.sites import MergedTable
from nativeleak.reports.merged.summary import dimensions, growth_of, headline, notes, process_text
from nativeleak.reports.merged.text import growth_text, head_name, places_text
from nativeleak.reports.names import place
from nativeleak.reports.output import encode_text
from nativeleak.units import format_bytes

_MAX_ROWS: Final = 2000
"""A page of more opens slowly; the other formats have all."""


def write(merged_table: MergedTable, stream: BinaryIO, options: WriteOptions) -> None:
    """The page.

    Raises:
        NativeleakError: The package was built without the page's style.
    """
    del options
    merged, sums = merged_table.merged, merged_table.sums
    known = sums.growth if any(source.grows for source in merged.sources) else None
    body: Content = [
        tag("header", tag("h1", headline(merged_table)), tag("p", _totals(merged_table, known), class_="facts")),
        tag(
            "main",
            _failures(merged_table),
            tag("ul", [tag("li", note) for note in notes(merged)]),
            _dimensions(merged_table, "host", "Hosts"),
            _dimensions(merged_table, "process", "Processes"),
            _paths(merged_table),
            tag("p", f"Made by nativeleak {__version__}.", class_="dim"),
        ),
    ]
    for part in document(headline(merged_table), body, style=read_parts()["page.css"]):
        stream.write(encode_text(part))


def _totals(merged_table: MergedTable, growth: Growth | None) -> str:
    return f"{format_bytes(merged_table.sums.outstanding_bytes)} outstanding, {growth_text(growth)}"


def _failures(merged_table: MergedTable) -> Content:
    failures = merged_table.merged.failures
    if not failures:
        return None
    n_all = len(failures) + len(merged_table.merged.sources)
    said = [tag("li", failure.what) for failure in failures]
    return tag(
        "div", tag("b", f"Not read: {len(failures):,} of {n_all:,} recordings"), tag("ul", said), class_="warning"
    )


def _dimensions(merged_table: MergedTable, name: str, title: str) -> Markup:
    merged = merged_table.merged
    found = dimensions(merged, name, merged_table.selection.metric)[:_MAX_ROWS]
    rows = [
        [
            merged.hosts[each.number] if name == "host" else process_text(merged, merged.processes[each.number]),
            cell(format_bytes(each.outstanding_bytes), each.outstanding_bytes),
            _growth_cell(each.growth),
        ]
        for each in found
    ]
    heads = [(name, ""), ("outstanding", "number"), ("growth", "number")]
    return tag("section", tag("h2", title), table(heads, rows), id=f"by-{name}")


def _paths(merged_table: MergedTable) -> Markup:
    listing = merged_table.sites
    heads = [("#", "number"), ("outstanding", "number"), ("growth", "number"), ("where", ""), ("call path", "")]
    n_shown = min(_MAX_ROWS, len(listing.rows))
    title = f"Call paths: {n_shown:,} of {listing.n_all:,}"
    return tag("section", tag("h2", title), table(heads, _path_rows(merged_table, n_shown)), id="paths")


def _path_rows(merged_table: MergedTable, n_shown: int) -> Iterator[list[Content]]:
    rows, sites = merged_table.shown, merged_table.sites.rows
    for at in range(n_shown):
        site = sites[at]
        frames = [tag("div", f"{shown_name(frame)}  {place(frame)}".rstrip()) for frame in site.stack.frames]
        where = f"{site.kind.value}, {site.owner.value}; "
        where += places_text(site, int(rows.n_hosts[at]), int(rows.n_processes[at]))
        where += f"; {became}" if (became := fate_words(site.fate, site.lost_certainty)) else ""
        yield [
            str(at + 1),
            cell(format_bytes(site.totals.outstanding_bytes), site.totals.outstanding_bytes),
            _growth_cell(growth_of(rows, at)),
            where,
            tag("td", tag("details", tag("summary", head_name(site)), tag("div", frames, class_="stack"))),
        ]


def _growth_cell(growth: Growth | None) -> Markup:
    return cell(growth_text(growth), 0.0 if growth is None else growth.slope_bytes_per_s)
