"""The lower parts of the page: threads, the JVM, address space, completeness, and how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from nativeleak import __version__
from nativeleak.analysis.select import pool_of
from nativeleak.model import Kind, Owner
from nativeleak.reports.completeness import gaps
from nativeleak.reports.html.markup import Content, Markup, cell, table, tag
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.names import place
from nativeleak.reports.numbers import percent
from nativeleak.reports.report import Report, ThreadReport
from nativeleak.reports.text import ROUTINE
from nativeleak.reports.text_answer import sentence
from nativeleak.reports.text_seen import process_name, saw_everything, watched_lines
from nativeleak.runtimes.frames import headline_frame, purpose_of_stack
from nativeleak.units import format_bytes, format_duration

_MAX_POOLS: Final = 500
_MAX_THREADS: Final = 2000
_MAX_UNMAPPERS: Final = 200
_KINDS: Final = {Kind.HEAP: "heap", Kind.MAP: "mapped by the program", Kind.BRK: "program break"}
_LEVELS: Final = {
    "exact": "every allocation",
    "sampled": "sampled",
    "big-blocks": "large blocks only",
    "hot": "rare call sites only",
    "syscalls": "system calls only",
}


def threads(report: Report, redactor: Redactor) -> Markup:
    """Pools and threads that hold outstanding memory."""
    holders = [each for each in report.threads if each.outstanding_bytes or each.outstanding_count]
    if not holders:
        return Markup()
    pools: dict[str, list[ThreadReport]] = {}
    for each in holders:
        pools.setdefault(pool_of(each.name), []).append(each)
    whole = report.sums.outstanding_bytes
    by_pool = sorted(pools.items(), key=lambda item: -sum(each.outstanding_bytes for each in item[1]))
    pool_rows = [_thread_row(redactor.text(name), members, whole) for name, members in by_pool[:_MAX_POOLS]]
    heads = [("holds", "number"), ("share", "number"), ("blocks", "number")]
    parts: list[Content] = [table([*heads, ("threads", "number"), ("pool", "")], pool_rows)]
    if len(pools) > _MAX_POOLS:
        parts.append(tag("p", f"The {_MAX_POOLS:,} that hold most, of {len(pools):,}.", class_="dim"))
    if len(holders) > len(pools):
        rows = [
            [
                *_thread_row("", [each], whole)[:3],
                str(each.tid),
                "alive" if each.alive else "ended",
                redactor.text(each.name),
            ]
            for each in holders[:_MAX_THREADS]
        ]
        title = f"Each of the {len(holders):,} threads"
        if len(holders) > _MAX_THREADS:
            title += f"; the {_MAX_THREADS:,} that hold most"
        single = table([*heads, ("TID", "number"), ("state", ""), ("name", "")], rows)
        parts.append(tag("details", tag("summary", title), single))
    return tag("section", tag("h2", "Threads and pools"), parts, id="threads")


def _thread_row(name: str, members: Iterable[ThreadReport], whole: int) -> list[Content]:
    members = list(members)
    n_bytes = sum(each.outstanding_bytes for each in members)
    n_blocks = sum(each.outstanding_count for each in members)
    return [
        cell(format_bytes(n_bytes), n_bytes),
        _share(n_bytes, whole),
        cell(f"{n_blocks:,}", n_blocks),
        cell(f"{len(members):,}", len(members)),
        name,
    ]


def jvm(report: Report) -> Markup:
    """What the JVM holds for itself, by purpose."""
    held = report.detail.sites
    held = held[held["owner"] == Owner.RUNTIME.value]
    by_stack = held.groupby("stack_key")[["outstanding_bytes", "outstanding_count", "reserved_bytes"]].sum()
    by_stack = by_stack[(by_stack["outstanding_bytes"] > 0) | (by_stack["outstanding_count"] > 0)]
    if by_stack.empty:
        return Markup()
    sums: dict[str, list[int]] = {}
    for key, added in zip(by_stack.index.tolist(), by_stack.to_numpy().tolist(), strict=True):
        row = sums.setdefault(purpose_of_stack(report.stacks.stack(int(key)).frames), [0, 0, 0])
        row[:] = [a + b for a, b in zip(row, added, strict=True)]
    whole = report.sums.outstanding_bytes
    rows = [
        [
            cell(format_bytes(size), size),
            _share(size, whole),
            cell(f"{n_blocks:,}", n_blocks),
            cell(format_bytes(reserved), reserved),
            purpose,
        ]
        for purpose, (size, n_blocks, reserved) in sorted(sums.items(), key=lambda item: -item[1][0])
    ]
    heads = [("holds", "number"), ("share", "number"), ("blocks", "number"), ("reserved", "number"), ("for", "")]
    note = "Held by the JVM itself, not by the program's calls."
    return tag("section", tag("h2", "The JVM's own memory"), tag("p", note, class_="dim"), table(heads, rows), id="jvm")


def address_space(report: Report, redactor: Redactor) -> Markup:
    """Outstanding memory by kind, with what of it is resident, and callers that unmapped memory."""
    rows = []
    for kind, totals in report.sums.by_kind.items():
        if totals.allocated_bytes or totals.outstanding_bytes:
            measured = kind is not Kind.HEAP
            rows.append(
                [
                    _KINDS[kind],
                    cell(format_bytes(totals.outstanding_bytes), totals.outstanding_bytes),
                    cell(f"{totals.outstanding_count:,}", totals.outstanding_count),
                    cell(format_bytes(totals.resident_bytes), totals.resident_bytes) if measured else "-",
                    cell(format_bytes(totals.reserved_bytes), totals.reserved_bytes),
                    cell(format_bytes(totals.allocated_bytes), totals.allocated_bytes),
                    cell(format_bytes(totals.freed_bytes), totals.freed_bytes),
                ]
            )
    numbers = ("outstanding", "blocks", "resident", "reserved", "allocated", "freed")
    parts: list[Content] = [table([("kind", ""), *((name, "number") for name in numbers)], rows)] if rows else []
    if backing := report.sums.backing.outstanding_bytes:
        text = f"{format_bytes(backing)} that allocators mapped for themselves hold the blocks that are counted above."
        parts.append(tag("p", text, class_="dim"))
    parts.append(_unmapped(report, redactor))
    return tag("section", tag("h2", "Address space"), parts, id="space") if rows else Markup()


def _unmapped(report: Report, redactor: Redactor) -> Markup:
    given = [each for each in report.unmapped or () if each.totals.owner is Owner.PROGRAM and each.given_bytes]
    if not given:
        return Markup()
    rows = []
    for each in given[:_MAX_UNMAPPERS]:
        frame = headline_frame(each.stack.frames)
        name = redactor.text(f"{frame.function}  {place(frame)}") if frame else "[no stack]"
        other, older = each.totals.other_threads_bytes, each.totals.older_bytes
        rows.append(
            [
                cell(format_bytes(each.given_bytes), each.given_bytes),
                cell(f"{each.totals.n_calls:,}", each.totals.n_calls),
                cell(format_bytes(other), other),
                cell(format_bytes(older), older),
                redactor.text(each.thread),
                name,
            ]
        )
    numbers = ("unmapped", "calls", "of other threads", "older than the trace")
    heads = [*((name, "number") for name in numbers), ("thread", ""), ("by", "")]
    title = f"Unmapped by {len(given):,} caller{'' if len(given) == 1 else 's'} of munmap, mremap or shmdt"
    return tag("details", tag("summary", title), table(heads, rows))


def completeness(report: Report, redactor: Redactor) -> Markup:
    """What is missing from the report, and what is uncertain in it."""
    found = gaps(report)
    items: list[Content] = []
    if not any(gap.is_loss for gap in found):
        whole = "Nothing was lost: every allocation the probes saw is counted."
        items.append(whole if saw_everything(report) else "What was watched is counted whole; not all was watched.")
    items += [tag("span", redactor.text(sentence(gap)), class_="loss" if gap.is_loss else None) for gap in found]
    items += [
        redactor.text(f"at {format_duration(event.elapsed_s)}: {event.text}")
        for event in report.trace.events
        if event.what not in ROUTINE
    ]
    listed = tag("ul", [tag("li", item) for item in items])
    return tag("section", tag("h2", "Completeness"), listed, id="completeness")


def made(report: Report, redactor: Redactor, licences: str) -> Markup:
    """How the trace and the page were made, and the licences of what the page contains."""
    facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(report, redactor) if value]
    return tag(
        "section",
        tag("h2", "How this was made"),
        tag("dl", facts, class_="facts-list"),
        tag("details", tag("summary", "Licences of the libraries in this page"), tag("pre", Markup(licences))),
        id="made",
    )


def _facts(report: Report, redactor: Redactor) -> Iterator[tuple[str, Content]]:
    trace, cost = report.trace, report.overhead
    info = trace.info
    yield "processes", [[redactor.text(f"{process_name(each)}: {each.end.value}"), tag("br")] for each in trace.targets]
    yield "started", datetime.fromtimestamp(info.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield "traced", f"{format_duration(trace.duration_s)}, {trace.n_snapshots:,} snapshots"
    yield "ended by", redactor.text(trace.end_reason or "the recorder was killed")
    yield "machine", redactor.text(f"Linux {info.kernel}, {info.machine}")
    yield "engine", f"{info.backend}: {', '.join(info.probes)}"
    yield "watched", redactor.text("; ".join(text for label, text, _ in watched_lines(report) if label == "Watched"))
    yield "detail", [[_window(*window[:4]), tag("br")] for window in trace.windows]
    yield "options", _options(report, redactor)
    if cost.probe_cost_ns:
        share = f"about {percent(cost.core_pct)} of a core, {percent(cost.target_cpu_pct)} of the target's CPU time"
        yield "cost", f"{cost.probe_hits:,} {info.coverage.hits}; {share} (estimated)"
    memory = f"at most {format_bytes(cost.tracer_max_rss_bytes)}, and {format_bytes(cost.kernel_bytes)} of kernel maps"
    yield "tracer", f"{cost.tracer_cpu_s:.1f} s of CPU time; {memory}"
    yield "recording", redactor.text(trace.name) if not redactor.is_on else ""
    yield "versions", f"recorded by nativeleak {info.version}, page by {__version__}"
    if redactor.is_on or redactor.n_names:
        hidden = "paths, arguments, addresses and names of hosts" if redactor.is_on else ""
        by_pattern = f"{redactor.n_names:,} names by pattern" if redactor.n_names else ""
        yield "hidden", " and ".join(filter(None, (hidden, by_pattern)))


def _options(report: Report, redactor: Redactor) -> str:
    options = report.trace.info.options
    if redactor.is_on:
        return ", ".join(sorted(options))
    return redactor.text(", ".join(f"{name} {value}" for name, value in sorted(options.items())))


def _window(from_s: float, to_s: float, level: str, sample_bytes: int) -> str:
    often = f", one block per {format_bytes(sample_bytes)}" if sample_bytes else ""
    return f"{format_duration(from_s)} to {format_duration(to_s)}: {_LEVELS.get(level, level)}{often}"


def _share(n_bytes: int, whole: int) -> Markup:
    pct = 100 * n_bytes / whole if whole else 0.0
    return cell(percent(pct), pct)
