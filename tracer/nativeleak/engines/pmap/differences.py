"""What has come and what has gone between two readings of a process's mappings, by address.

Mappings grow, are split by mprotect and merge with their neighbours without anything having happened to the memory in
them; so it is ranges that are compared, not lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nativeleak.engines.pmap.smaps import Mapping


class Range(NamedTuple):
    """Memory at [start, end); ``what`` tells different memory at the same place apart."""

    start: int
    end: int
    what: str


def ranges_of(mappings: Iterable[Mapping]) -> list[Range]:
    """The memory in some mappings: what no access is allowed to is address space only; neighbours are merged."""
    found: list[Range] = []
    for mapping in mappings:
        if not mapping.is_accessible:
            continue
        what = mapping.path if mapping.path.startswith("/") else ""
        if found and found[-1].end == mapping.start and found[-1].what == what:
            found[-1] = Range(found[-1].start, mapping.end, what)
        else:
            found.append(Range(mapping.start, mapping.end, what))
    return found


def without(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """The parts of ``ranges`` that are not in ``others``; both in order of address."""
    left: list[Range] = []
    first = 0
    for start, end, what in ranges:
        while first < len(others) and others[first].end <= start:
            first += 1
        at = first
        while at < len(others) and others[at].start < end:
            other = others[at]
            if other.what == what:
                if other.start > start:
                    left.append(Range(start, other.start, what))
                start = max(start, other.end)
            at += 1
        if start < end:
            left.append(Range(start, end, what))
    return left
