"""The report for people: Java objects, lost blocks, holders, classes; at most 40 lines unless all are wanted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from nativeleak.holders.lost import LOST
from nativeleak.holders.result import HoldersReport, LostBlocks
from nativeleak.runtimes.hotspot.heap.text import holders_java_text
from nativeleak.units import format_bytes, format_duration

MAX_LINES: Final = 40
_WIDTH: Final = 118
_NAME: Final = 60
_ROOM: Final = ((6, 12, 8, 8), (4, 10, 6, 6), (3, 8, 5, 5), (2, 6, 4, 4), (1, 4, 3, 3), (1, 3, 1, 3), (1, 2, 1, 2))
"""Rows of groups, holders, classes and ways of Java objects, the most first."""
_JAVA_INDENT: Final = " " * 18
_MIN_SHARE: Final = 0.001
TITLES: Final = {
    "lost": "LOST",
    "leftover": "UNCERTAIN",
    "hidden": "HIDDEN",
}


def render_text(report: HoldersReport, *, show_all: bool = False) -> str:
    """The page, with a newline at its end.

    Args:
        report: What was found.
        show_all: Every holder, class and group.
    """
    if show_all:
        java = [] if report.java is None else holders_java_text(report.java, show_all=True).splitlines()
        return "\n".join(_page(report, java, 1 << 30, 1 << 30, 1 << 30, report.notes)) + "\n"
    for n_groups, n_holders, n_classes, n_ways in _ROOM:
        java = list(_java(report, n_ways))
        lines = [line[:_WIDTH] for line in _page(report, java, n_groups, n_holders, n_classes, report.notes[:2])]
        if len(lines) <= MAX_LINES:
            break
    return "\n".join(lines[:MAX_LINES]) + "\n"


def _page(
    report: HoldersReport, java: list[str], n_groups: int, n_holders: int, n_classes: int, notes: Sequence[str]
) -> list[str]:
    parts = [
        list(_header(report)),
        java,
        list(_lost(report, n_groups)),
        list(_traced(report, n_holders)),
        list(_holders(report, n_holders)),
        list(_classes(report, n_classes)),
        [f"note: {note}" for note in notes],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part).split("\n")


def _header(report: HoldersReport) -> Iterator[str]:
    seen = report.completeness
    heaps = " and ".join(kind for kind, _ in report.allocators)
    yield (
        f"{report.target.comm} (PID {report.target.pid}): {seen.n_blocks:,} live blocks of {heaps}, "
        f"{format_bytes(seen.n_bytes)}"
    )
    scans = f"{seen.n_scans} scan{'s' if seen.n_scans != 1 else ''}"
    if seen.n_scans < seen.wanted_scans:
        scans += f" of {seen.wanted_scans}"
    yield f"{scans}, {format_bytes(seen.read_bytes)} read in {format_duration(round(seen.seconds, 1))}; never stopped"


def _java(report: HoldersReport, n_most: int) -> Iterator[str]:
    """Which Java objects hold blocks; long ways take several lines."""
    if report.java is not None:
        for line in holders_java_text(report.java, n_most=n_most).splitlines():
            yield from textwrap.wrap(line, _WIDTH, subsequent_indent=_JAVA_INDENT, break_on_hyphens=False)


def _lost(report: HoldersReport, n_most: int) -> Iterator[str]:
    if report.lost is None:
        yield f"Lost blocks: not known: {report.why_not_lost}"
        return
    for each in report.lost:
        if not each.n_blocks:
            yield f"No block is lost: a pointer leads to each of them ({_scans(report)})."
            continue
        yield from _grade(report, each, n_most if each.grade == LOST else min(n_most, 2))
    seen = report.completeness
    if seen.refuted or seen.n_freed:
        n_written = sum(seen.refuted.values())
        yield f"taken back: {n_written:,} blocks written to and {seen.n_freed:,} freed after one scan called them lost"


def _scans(report: HoldersReport) -> str:
    return f"{report.completeness.n_scans} scans"


def _grade(report: HoldersReport, lost: LostBlocks, n_most: int) -> Iterator[str]:
    share = f", {lost.n_bytes / report.completeness.n_bytes:.1%} of the heap" if report.completeness.n_bytes else ""
    yield f"{TITLES[lost.grade]:<10}{lost.n_blocks:,} blocks, {format_bytes(lost.n_bytes)}{share}"
    if lost.grade == LOST:
        why = f" ({lost.why})" if lost.why else ""
        yield f"          no pointer of the process leads to them in {_scans(report)}: {lost.certainty}{why}"
    else:
        yield f"          {lost.why}"
    yield f"          {'blocks':>10}{'together':>12}{'bytes each':>12}   what"
    for group in lost.groups[:n_most]:
        what = group.class_name or group.hint
        row = f"          {group.n_blocks:>10,}{format_bytes(group.n_bytes):>12}{group.block_bytes:>12,}   {what}"
        yield row.rstrip()
    left = lost.groups[n_most:]
    if left:
        n_blocks, n_bytes = sum(each.n_blocks for each in left), sum(each.n_bytes for each in left)
        yield f"          {n_blocks:>10,}{format_bytes(n_bytes):>12}{'':>12}   {len(left)} other sizes"


def _traced(report: HoldersReport, n_most: int) -> Iterator[str]:
    """What became of the blocks of a recording."""
    recorded = report.recorded
    if recorded is None:
        return
    ago = format_duration(round(recorded.ended_s))
    title = f"traced in {Path(recorded.name).name}, which ended {ago} ago"
    yield f"{title[: _NAME - 1]:<{_NAME}}{'blocks':>9}{'in use':>9}{'lost':>9}   held by"
    if recorded.n_unlisted:
        yield f"  without {recorded.n_unlisted:,} blocks: the recording has no room for their addresses"
    certainty = next((each.certainty for each in report.lost or () if each.grade == LOST), "")
    for cause, fate in report.traced[:n_most]:
        name = _cut(cause.name + (f" ({cause.place})" if cause.place else ""))
        holders = ", ".join(name for name, _ in fate.held_by[:1])
        yield f"{name:<{_NAME}}{fate.n_recorded:>9,}{fate.n_in_use:>9,}{fate.n_lost:>9,}   {holders}".rstrip()
        if fate.n_lost:
            share = f"{fate.lost_pct:.0f} % of its blocks in use are lost"
            yield f"  leak, {certainty}: {share}, {format_bytes(fate.lost_bytes)}"
    left = len(report.traced) - n_most
    if left > 0:
        yield f"{left} other call paths"


def _holders(report: HoldersReport, n_most: int) -> Iterator[str]:
    if not report.holders:
        return
    total = report.completeness.n_bytes
    yield f"{'held by (nearest holder)':<{_NAME}}{'bytes':>12}{'share':>8}{'blocks':>12}{'only by it':>13}"
    shown = [each for each in report.holders if each.n_bytes >= _MIN_SHARE * total][:n_most]
    shown = shown or list(report.holders[:n_most])
    for each in shown:
        name = _cut(each.label.name)
        yield (
            f"{name:<{_NAME}}{format_bytes(each.n_bytes):>12}{each.n_bytes / total:>8.1%}{each.n_blocks:>12,}"
            f"{format_bytes(each.exclusive_bytes):>13}"
        )
    left = report.holders[len(shown) :]
    if left:
        n_bytes, n_blocks = sum(each.n_bytes for each in left), sum(each.n_blocks for each in left)
        name = f"{len(left)} smaller holder{'s' if len(left) != 1 else ''}"
        yield f"{name:<{_NAME}}{format_bytes(n_bytes):>12}{n_bytes / total:>8.1%}{n_blocks:>12,}"


def _classes(report: HoldersReport, n_most: int) -> Iterator[str]:
    if not report.classes:
        return
    yield f"{'class':<{_NAME}}{'bytes':>12}{'objects':>12}{'retained':>13}{'lost':>10}"
    for each in report.classes[:n_most]:
        retained = format_bytes(each.retained_bytes) if each.retained_bytes is not None else ""
        lost = f"{each.n_lost:,}" if each.n_lost else ""
        yield (
            f"{_cut(each.name):<{_NAME}}{format_bytes(each.n_bytes):>12}{each.n_objects:>12,}{retained:>13}{lost:>10}"
        ).rstrip()


def _cut(name: str) -> str:
    return name if len(name) < _NAME else f"{name[: _NAME - 4]}..."
