"""The page for people: the answer first, then the lines; at most 30 lines unless all are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from nativeleak.triage.group import group_line
from nativeleak.triage.lines import Ledger, Line
from nativeleak.triage.text_inside import text_inside
from nativeleak.triage.verdicts import Verdict, tightest_limit
from nativeleak.units import format_bytes

MAX_LINES: Final = 30
_WIDTH: Final = 118
_MIN_SHARE: Final = 0.005
_MAX_SIZES: Final = 5
_CACHE_SHARE: Final = 0.05
"""Of the limit: less page cache is not worth a word."""


def render_text(ledger: Ledger, verdicts: Sequence[Verdict], *, show_all: bool = False) -> str:
    """The page, with a newline at its end; names in it may hold characters that a terminal must not see.

    Args:
        ledger: The lines.
        verdicts: The most important first.
        show_all: Every verdict and every part of every line.
    """
    head = [header_text(ledger)]
    notes = [f"note: {note}" for note in ledger.notes]
    table = list(_table(ledger, show_all=show_all))
    sizes = list(_sizes(ledger, 100 if show_all else _MAX_SIZES))
    if show_all:
        answers = [line for verdict in verdicts for line in _verdict(verdict, 10)] or [nothing_text(ledger)]
        parts = [head, answers, table, sizes, list(text_inside(ledger)), _part_lines(ledger), notes]
    else:
        room = MAX_LINES - len(head) - len(table) - min(len(notes), 2) - 3
        answers = _fitting(verdicts, room) or [nothing_text(ledger)]
        left = MAX_LINES - len(head) - len(table) - min(len(notes), 2) - len(answers) - 3
        parts = [head, answers, table, sizes[:left] if left >= 3 else [], notes[:2]]
    text = "\n\n".join("\n".join(line[:_WIDTH] if not show_all else line for line in part) for part in parts if part)
    return text + "\n"


def header_text(ledger: Ledger) -> str:
    """The process, its resident memory and its tightest limit, in one line."""
    limit, name = tightest_limit(ledger)
    group = next((group for group in ledger.groups if group.limit_bytes == limit), None)
    usage = ""
    if group is not None:
        used, without = group.usage_bytes / limit, (group.usage_bytes - group.cache_bytes) / limit
        usage = f", {used:.0%} used" + (f", {without:.0%} without page cache" if used - without > _CACHE_SHARE else "")
    swap = f", {format_bytes(ledger.swap)} swapped out" if ledger.swap else ""
    return (
        f"{ledger.target.comm} (PID {ledger.target.pid}): {format_bytes(ledger.rss)} resident{swap}; "
        f"limit {format_bytes(limit)} ({name}{usage})"
    )


def nothing_text(ledger: Ledger) -> str:
    """What is said where no verdict is."""
    largest = max(ledger.lines, key=lambda line: line.resident, default=Line("unexplained"))
    return f"Nothing stands out. Most memory: {largest.label}, {format_bytes(largest.resident)}."


def _fitting(verdicts: Sequence[Verdict], room: int) -> list[str]:
    """As many verdicts as there is room for; the first ones with more evidence."""
    lines: list[str] = []
    for index, verdict in enumerate(verdicts):
        said = list(_verdict(verdict, 2 if index < 2 else 1))
        rest = 1 if index < len(verdicts) - 1 else 0  # the line that says how many there are more
        if len(lines) + len(said) + rest > room:
            lines.append(f"{len(verdicts) - index} more: --all")
            break
        lines += said
    return lines


def _verdict(verdict: Verdict, n_evidence: int) -> Iterator[str]:
    yield f"{verdict.certainty.upper():<9}{verdict.text}"
    yield from (f"         {line}" for line in verdict.evidence[:n_evidence])
    yield from (f"      -> {line}" for line in verdict.next[:n_evidence])


def _table(ledger: Ledger, *, show_all: bool) -> Iterator[str]:
    has_swap = ledger.swap > 0
    yield (
        f"{'resident memory':<27}{'resident':>11}{'share':>8}{'swap':>11}{'used':>11}"
        if has_swap
        else (f"{'resident memory':<27}{'resident':>11}{'share':>8}{'used':>11}")
    )
    others = Line("unexplained")
    for line in sorted(ledger.lines, key=lambda line: -line.resident):
        is_small = line.resident < _MIN_SHARE * ledger.rss and line.id != "unexplained" and not line.swap
        if is_small and not show_all:
            others.resident += line.resident
            others.virtual += 1
            continue
        yield _row(ledger, line.label, line, has_swap=has_swap)
    if others.resident:
        yield _row(ledger, f"{others.virtual} smaller ones", others, has_swap=has_swap)
    total = Line("unexplained", ledger.rss, ledger.swap)
    yield _row(ledger, "sum", total, has_swap=has_swap)
    threads = "1 thread" if ledger.n_threads == 1 else f"{ledger.n_threads:,} threads"
    beside = f"beside it: page tables {format_bytes(ledger.page_tables)}, {threads}"
    yield f"{beside}, {ledger.n_regions:,} mappings, {format_bytes(ledger.virtual)} of address space"
    if (charged := group_line(ledger)) is not None:
        yield charged
    if ledger.huge:
        zero = f", about {format_bytes(ledger.huge_zero)} of it zeros" if ledger.huge_zero is not None else ""
        yield f"in huge pages: {format_bytes(ledger.huge)}{zero}"


def _row(ledger: Ledger, label: str, line: Line, *, has_swap: bool) -> str:
    share = f"{line.resident / ledger.rss:.1%}" if ledger.rss else "-"
    used = format_bytes(line.used) if line.used is not None else "unknown" if line.owner else ""
    swap = f"{format_bytes(line.swap):>11}" if has_swap else ""
    return f"{label:<27}{format_bytes(line.resident):>11}{share:>8}{swap}{used:>11}".rstrip()


def _sizes(ledger: Ledger, n_most: int) -> Iterator[str]:
    sizes = [(size, count) for walk in ledger.walks for size, count in walk.sizes.items()]
    if not sizes:
        return
    yield f"{'blocks in use by size':<27}{'blocks':>11}{'together':>15}"
    for size, count in sorted(sizes, key=lambda item: -item[0] * item[1])[:n_most]:
        name = ledger.known_as(size)
        yield f"{f'{size:,} bytes':<27}{count:>11,}{format_bytes(size * count):>15}" + (f"   {name}" if name else "")


def _part_lines(ledger: Ledger) -> list[str]:
    return [
        f"{line.label}: {name}: {format_bytes(n_bytes)}"
        for line in ledger.lines
        for name, n_bytes in line.detail
        if n_bytes
    ]
