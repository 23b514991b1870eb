"""How fast the parts of the findings grow, and what their shares are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from nativeleak.analysis.census_growth import Part, heap_growth, held_against_memory, memory_factor
from nativeleak.analysis.curves import Curves, Floats, Span, replaces_older
from nativeleak.analysis.growth import Growth, Verdict, measure, watch_s
from nativeleak.analysis.rows import Table
from nativeleak.model import Kind
from nativeleak.recording import Recording

_EVEN_SHARE: Final = 0.75
_FLAT_SHARE: Final = 0.50
_OF_CLASSES: Final = "class metadata"


@dataclass(frozen=True, slots=True)
class About:
    """What a part's rate depends on.

    Attributes:
        is_map: It is address space, whose calls are watched outside of windows too.
        block_bytes: Mean size of its blocks.
        warms_up: It is memory of a runtime that grows while the program starts: compiled code, classes, tables.
    """

    is_map: bool
    block_bytes: float
    warms_up: bool = False


def about_part(rows: Table, what: str | None) -> About:
    """What is known of a part by its sites.

    Args:
        rows: As ``table.site_table``, with the column purpose.
        what: Its kind of memory in words; None where nothing is known.
    """
    block_bytes = float(rows["outstanding_bytes"].sum() / max(1, rows["outstanding_count"].sum()))
    warms_up = bool(rows["purpose"][0]) or what == _OF_CLASSES
    return About(bool(rows["kind"][0] != Kind.HEAP.value), block_bytes, warms_up)


@dataclass(frozen=True, slots=True)
class Rates:
    """Growth of all parts.

    Attributes:
        growths: Of what each holds.
        resident: Of what of it is in memory.
        wholes: What the share of each is of, in bytes a second. Where that is the memory of allocators, it is less for
            small blocks: a part of it is their headers.
    """

    growths: list[Growth]
    resident: list[Growth]
    wholes: list[float]


def rates_of_parts(recording: Recording, span: Span, total: Curves, curves: Curves, parts: Sequence[About]) -> Rates:
    """Growth of each part; of windows held against the growth of the allocators' memory.

    Args:
        recording: Where the curves come from.
        span: What was watched.
        total: One curve, of everything.
        curves: One for each part.
        parts: The same parts.
    """
    growths = measure(curves)
    # What is resident is known whether or not blocks were watched.
    resident = growths if span.by_births else measure(replace(curves, n_bytes=curves.resident, watched=None))
    if span.in_windows:
        mapped = measure(replace(curves, watched=None))
        by_windows = held_against_memory(
            recording, [Part(growth, part.block_bytes) for growth, part in zip(growths, parts, strict=True)]
        )
        growths = [mapped[i] if part.is_map else by_windows[i] for i, part in enumerate(parts)]
        chosen = [resident[i] if part.is_map else growths[i] for i, part in enumerate(parts)]
        heap = heap_growth(recording)
        whole = heap.slope_bytes_per_s if heap is not None else 0.0
    else:
        growths = [
            replace(growth, verdict=Verdict.UNDECIDED, enough_s=watch_s(3 * recording.elapsed_s))
            if growth.verdict is Verdict.GROWING and is_replaced
            else growth
            for growth, is_replaced in zip(growths, replaces_older(recording, curves, span), strict=True)
        ]
        chosen = resident
        whole = measure(replace(total, n_bytes=total.resident))[0].slope_bytes_per_s
    has_course = curves.watched is None
    spans = np.diff(curves.elapsed_s)
    added_in_turn = np.diff(curves.n_bytes, axis=1) * (spans.mean() / spans if len(spans) else 1.0)
    growths = [
        settled(growth, added, recording.elapsed_s) if part.warms_up and (has_course or part.is_map) else growth
        for growth, added, part in zip(growths, added_in_turn, parts, strict=True)
    ]
    in_memory = [memory_factor(part.block_bytes) if span.in_windows and not part.is_map else 1.0 for part in parts]
    rising = sum(
        growth.slope_bytes_per_s * factor
        for growth, factor in zip(chosen, in_memory, strict=True)
        if growth.verdict is Verdict.GROWING
    )
    return Rates(growths, resident, [max(whole, rising) / factor for factor in in_memory])


def settled(growth: Growth, added: Floats, elapsed_s: float) -> Growth:
    """The growth of what a runtime takes while its program warms up: a leak only where it does not slow down.

    Code caches and tables of classes grow for minutes, ever more slowly. A leak of classes or of compiled code goes on
    as it began.

    Args:
        growth: As for any other memory.
        added: Bytes that each part of the trace added, in the same time each.
        elapsed_s: Length of the trace.
    """
    third = max(1, len(added) // 3)
    first, last = float(added[:third].sum()), float(added[-third:].sum())
    if growth.verdict is not Verdict.GROWING or last >= _EVEN_SHARE * first:
        return growth
    if last < _FLAT_SHARE * first:
        return replace(growth, verdict=Verdict.LEVELLING_OFF, enough_s=None)
    return replace(growth, verdict=Verdict.UNDECIDED, enough_s=watch_s(3 * elapsed_s))
