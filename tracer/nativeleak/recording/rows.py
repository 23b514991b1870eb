"""Rows of a recording's tables as what they mean.

Scope: one row at a time; a damaged one raises what ``Recording.damage_reported`` turns into an error.
"""

from __future__ import annotations

from typing import Any

from nativeleak.model import (
    Frame,
    FrameKind,
    FrameSource,
    Kind,
    Owner,
    SiteKey,
    SiteTotals,
    Uncertainty,
    UnmapTotals,
)
from nativeleak.recording.columns import parse_texts
from nativeleak.recording.schema import to_unsigned, unpack_slices

Row = tuple[Any, ...]


def read_frame(row: Row) -> Frame:
    """A frame of the table ``frames``."""
    _, function, module, ip, offset, kind, file, line, build_id, module_offset, found = row
    return Frame(
        function,
        module,
        to_unsigned(ip),
        to_unsigned(offset),
        FrameKind(kind),
        file,
        line,
        build_id,
        to_unsigned(module_offset),
        FrameSource(found),
    )


def read_site(row: Row, end_s: float, uncertainty: Uncertainty) -> SiteTotals:
    """A site with its numbers at a moment; ``end_s``: that moment."""
    _, kind, slot, thread_uid, stack_key, owner, functions = row[:7]
    allocated_bytes, allocated_count, freed_bytes, freed_count, resident_bytes, reserved_bytes, born_s, slices = row[7:]
    return SiteTotals(
        SiteKey(Kind(kind), slot, thread_uid, to_unsigned(stack_key)),
        allocated_bytes,
        allocated_count,
        freed_bytes,
        freed_count,
        resident_bytes,
        reserved_bytes,
        None if born_s is None else max(0.0, end_s - born_s),
        unpack_slices(slices),
        Owner(owner),
        parse_texts(functions),
        uncertainty,
    )


def read_retired(row: Row) -> SiteTotals:
    """What left the site table, by kind and owner."""
    kind, slot, owner, allocated_bytes, allocated_count, freed_bytes, freed_count = row
    key = SiteKey(Kind(kind), slot, 0, 0)
    return SiteTotals(key, allocated_bytes, allocated_count, freed_bytes, freed_count, owner=Owner(owner))


def read_unmapped(row: Row) -> UnmapTotals:
    """A caller that gave memory back."""
    slot, number, thread_uid, stack_key, owner, functions, *numbers = row
    n_calls, freed_bytes, other_threads_bytes, reserved_bytes, older_bytes = map(int, numbers)
    return UnmapTotals(
        number,
        slot,
        thread_uid,
        to_unsigned(stack_key),
        Owner(owner),
        parse_texts(functions),
        n_calls,
        freed_bytes,
        other_threads_bytes,
        reserved_bytes,
        older_bytes,
    )
