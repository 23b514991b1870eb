"""Kills as text for people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from nativeleak.inputs.oom.event import Event
from nativeleak.inputs.oom.reader import OomReader, in_words
from nativeleak.units import format_bytes

_SIZES = (
    ("anon_rss_kb", "anonymous"),
    ("file_rss_kb", "files"),
    ("shmem_rss_kb", "shared memory"),
    ("swap_kb", "swap"),
    ("pgtables_kb", "page tables"),
    ("total_vm_kb", "virtual"),
)


def as_text(source: str, reader: OomReader) -> Iterator[str]:
    """Lines without newlines."""
    events = reader.events
    killed = sum(event.killed for event in events)
    if not events:
        yield f"nobody was killed when memory ran out: {reader.n_lines:,} lines read from {source}"
    else:
        yield f"{killed} killed, {len(events)} events: {reader.n_lines:,} lines read from {source}"
    for event in events:
        yield ""
        yield from _of(event)
    for note in reader.notes:
        yield f"note: {note}"


def _of(event: Event) -> Iterator[str]:
    yield in_words(event)
    sizes = [
        f"{name} {format_bytes(value << 10)}" for key, name in _SIZES if (value := getattr(event, key)) is not None
    ]
    if sizes:
        yield f"  it held: {', '.join(sizes)}"
    if event.usage_kb is not None:
        limit = "no limit" if event.limit_kb is None else f"limit {format_bytes(event.limit_kb << 10)}"
        yield f"  cgroup {event.limit_cgroup or '(unnamed)'}: usage {format_bytes(event.usage_kb << 10)}, {limit}"
    if event.victim_cgroup and event.victim_cgroup != event.limit_cgroup:
        yield f"  in cgroup {event.victim_cgroup}"
    if event.invoked_by:
        yield f"  invoked by {event.invoked_by}" + (
            f", oom_score_adj of the victim {event.oom_score_adj}" if event.oom_score_adj is not None else ""
        )
    if event.extra.get("order"):
        yield f"  order {event.extra['order']}: contiguous pages were wanted; memory was fragmented, not only short"
    if event.scope in ("cpuset", "mempolicy"):
        yield "  a NUMA node or a cpuset was full, not the machine"
    if event.others:
        others = ", ".join(f"{o['comm']} ({o['pid']}) {format_bytes(o['rss_kb'] << 10)}" for o in event.others)
        yield f"  other processes: {others}"


def limit_of(events: Sequence[Event]) -> tuple[int, str] | None:
    """(bytes, name) of the limit that the last kill met; None where no event says one."""
    for event in reversed(events):
        if event.limit_kb is not None:
            return event.limit_kb << 10, f"the limit of {event.limit_cgroup or 'its cgroup'}"
        if event.scope == "global" and event.extra.get("machine_kb"):
            return event.extra["machine_kb"] << 10, "the machine"
    return None


def read_machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
