"""Parts of the full page: limits, the Java heap by kind, arenas with their threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from nativeleak.heaps.census import ArenaCensus
from nativeleak.triage.group import group_lines
from nativeleak.triage.lines import Ledger
from nativeleak.triage.verdicts import java_limits
from nativeleak.units import format_bytes

_MAX_ARENAS: Final = 40
_MAX_NAMES: Final = 6
_MAX_CLEANERS: Final = 5
_MIN_CLEANERS: Final = 100


def text_inside(ledger: Ledger) -> Iterator[str]:
    """One line a fact; none where nothing is known."""
    yield from _limits(ledger)
    yield from _java(ledger)
    yield from _arenas(ledger)


def _limits(ledger: Ledger) -> Iterator[str]:
    yield from group_lines(ledger)
    for use in ledger.rlimits:
        used = "unknown" if use.usage_bytes is None else format_bytes(use.usage_bytes)
        yield f"limit: {use.limit.name}: {used} of {format_bytes(use.limit.limit_bytes)}"
    yield f"limit: machine: {format_bytes(ledger.machine_bytes)}"
    parts = java_limits(ledger)
    for name, n_bytes in parts:
        yield f"the JVM may take: {name}: {format_bytes(n_bytes)}"
    if parts:
        yield f"the JVM may take together: {format_bytes(sum(n_bytes for _, n_bytes in parts))}"


def _java(ledger: Ledger) -> Iterator[str]:
    java = ledger.java
    if java is None or java.heap is None:
        return
    resident = dict(ledger.heap_resident)
    for name, n_bytes in sorted(java.heap.parts.items(), key=lambda item: -item[1]):
        beside = f", {format_bytes(resident[name])} in memory" if name in resident else ""
        yield f"Java heap: {name}: {format_bytes(n_bytes)} used{beside}"
    if said := ledger.native_counts.said():
        yield f"Java counts: {said}"
    counts = ledger.native_counts
    if counts.cleaners_whole and counts.deflater_count is None:
        yield (
            "Java counts: Deflaters and Inflaters unknown: their list could not be read, most often because objects "
            f"moved; run it again, or nativeleak holders -p {ledger.target.pid}"
        )
    if not counts.cleaners_whole:
        yield (
            "Java counts: the list of cleaners is longer than is read here; "
            f"nativeleak holders -p {ledger.target.pid} counts all"
        )
    for name, count in counts.cleaners[:_MAX_CLEANERS]:
        if count >= _MIN_CLEANERS:
            yield f"Java cleaners: {name.replace('/', '.')}: {count:,} wait for their object's end"
    if ledger.heap_free is not None:
        yield f"Java heap: free and in memory: {format_bytes(ledger.heap_free)}"


def _arenas(ledger: Ledger) -> Iterator[str]:
    for walk in ledger.walks:
        arenas = sorted(walk.arenas, key=lambda arena: -arena.census.in_use.n_bytes - arena.census.retained_bytes)
        for arena in arenas[:_MAX_ARENAS] if len(arenas) > 1 else ():
            users = _threads(arena, ledger.arena_threads.get(arena.name, ()))
            yield f"{walk.kind} arena {arena.name}: {_arena(arena)}{users}"
        if len(arenas) > _MAX_ARENAS:
            yield f"{walk.kind}: {len(arenas) - _MAX_ARENAS} smaller arenas"


def _arena(arena: ArenaCensus) -> str:
    census = arena.census
    return (
        f"in use {format_bytes(census.in_use.n_bytes)}, retained {format_bytes(census.retained_bytes)}, "
        f"{format_bytes(census.retained_resident_bytes)} of it in memory"
    )


def _threads(arena: ArenaCensus, names: Sequence[str]) -> str:
    if not names:
        return "" if arena.n_threads is None else f"; {arena.n_threads} thread{'' if arena.n_threads == 1 else 's'}"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"; used by {', '.join(names[:_MAX_NAMES])}{more}"
