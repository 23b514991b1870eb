"""How fast the parts of the findings grow, and what their shares are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from nativeleak.analysis.census_growth import Part, heap_growth, held_against_memory, memory_factor
from nativeleak.analysis.curves import Curves, Floats, Ints, Labelled, Span, read_curves, replaces_older
from nativeleak.analysis.growth import Growth, Verdict, measure, watch_s
from nativeleak.analysis.rows import Table
from nativeleak.analysis.windowed import own_shares
from nativeleak.model import Kind
from nativeleak.recording import Recording

_EVEN_SHARE: Final = 0.75
_FLAT_SHARE: Final = 0.50
_LATE_SHARE: Final = 0.85
OF_CLASSES: Final = "class metadata"
_LEAST_SHARE: Final = 0.005
_LEAST_BYTES: Final = 1 << 20
_WORKING_SHARE: Final = 0.50


@dataclass(frozen=True, slots=True)
class About:
    """What a part's rate depends on.

    Attributes:
        is_map: It is address space, whose calls are watched outside of windows too.
        block_bytes: Mean size of its blocks.
        warms_up: It is memory of a runtime that grows while the program starts: compiled code, classes, tables.
        is_programs: A function of the program asked for it.
    """

    is_map: bool
    block_bytes: float
    warms_up: bool = False
    is_programs: bool = False


def about_part(rows: Table, what: str | None) -> About:
    """What is known of a part by its sites.

    Args:
        rows: As ``table.site_table``, with the column purpose.
        what: Its kind of memory in words; None where nothing is known.
    """
    block_bytes = float(rows["outstanding_bytes"].sum() / max(1, rows["outstanding_count"].sum()))
    is_programs = not rows["purpose"][0]
    warms_up = not is_programs or what == OF_CLASSES
    return About(holds_mappings(rows), block_bytes, warms_up, is_programs)


def holds_mappings(rows: Table) -> bool:
    """Whether these sites hold address space more than blocks: of a cause that takes both, what is most counts."""
    of_heap = rows["kind"] == Kind.HEAP.value
    held = rows["outstanding_bytes"]
    return bool(held[~of_heap].sum() > held[of_heap].sum()) if of_heap.any() else True


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


def is_minor(recording: Recording, growth: Growth, freed_share: float) -> bool:
    """Whether memory of a runtime tells nothing of the process: it gained too little, or is a store that it works with.

    Args:
        recording: Of the trace.
        growth: Of this memory.
        freed_share: Of what was allocated, the part that was freed.
    """
    if growth.verdict is Verdict.UNDECIDED and freed_share >= _WORKING_SHARE:
        return True
    resident_bytes = max((each.rss_bytes for each in recording.snapshots), default=0)
    return growth.slope_bytes_per_s * recording.elapsed_s < least_bytes(resident_bytes)


def least_bytes(resident_bytes: int) -> float:
    """What a runtime's own memory gains at least where it is worth a word."""
    return min(_LEAST_BYTES, _LEAST_SHARE * resident_bytes)


@dataclass(frozen=True, slots=True)
class Apart:
    """Curves of the parts where the heap was not watched all the time, but mappings were.

    Attributes:
        mappings: What each part mapped, over the whole trace.
        blocks: What each part has on the heap, as it was watched.
    """

    mappings: Curves
    blocks: Curves


def curves_apart(recording: Recording, labels: Ints, n_parts: int, span: Span) -> Apart | None:
    """Mappings and blocks apart; None where both were watched all the time.

    Args:
        recording: Where they come from.
        labels: Number of the part of each site; -1 for none.
        n_parts: How many there are.
        span: What was watched.
    """
    if not span.is_stretch and not span.in_windows:
        return None
    is_heap = np.array(recording.site_columns.kind, dtype=object) == Kind.HEAP.value
    mappings, blocks = (Labelled(np.where(chosen, labels, -1), n_parts) for chosen in (~is_heap, is_heap))
    return Apart(
        read_curves(recording, [mappings], courses=True)[0], read_curves(recording, [blocks], span, courses=True)[0]
    )


def rates_of_parts(
    recording: Recording, span: Span, total: Curves, curves: Curves, parts: Sequence[About], apart: Apart | None = None
) -> Rates:
    """Growth of each part; of windows held against the growth of the allocators' memory.

    Args:
        recording: Where the curves come from.
        span: What was watched.
        total: One curve, of everything.
        curves: One for each part.
        parts: The same parts.
        apart: As ``curves_apart``.
    """
    seen = curves if apart is None else apart.blocks
    growths = measure(seen)
    # What is resident is known whether or not blocks were watched.
    resident = growths if span.by_births else measure(replace(seen, n_bytes=seen.resident, watched=None))
    if span.in_windows:
        growths = held_against_memory(
            recording,
            [
                Part(growth, part.block_bytes, own)
                for growth, part, own in zip(growths, parts, own_shares(seen), strict=True)
            ],
        )
    else:
        growths = [
            replace(growth, verdict=Verdict.UNDECIDED, enough_s=watch_s(3 * recording.elapsed_s))
            if growth.verdict is Verdict.GROWING and is_replaced and not part.is_map
            else growth
            for growth, is_replaced, part in zip(growths, replaces_older(recording, seen, span), parts, strict=True)
        ]
    added = [_added_in_turn(seen)] * len(parts)
    if apart is not None:
        blocks, mapped = growths, measure(apart.mappings)
        mapped_resident = measure(replace(apart.mappings, n_bytes=apart.mappings.resident))
        growths = [_with_blocks(mapped[i], blocks[i]) if part.is_map else blocks[i] for i, part in enumerate(parts)]
        resident = [
            _with_blocks(mapped_resident[i], blocks[i]) if part.is_map else resident[i] for i, part in enumerate(parts)
        ]
        added = [_added_in_turn(apart.mappings if part.is_map else seen) for part in parts]
    if span.in_windows:
        chosen = [resident[i] if part.is_map else growths[i] for i, part in enumerate(parts)]
        heap = heap_growth(recording)
        whole = heap.slope_bytes_per_s if heap is not None else 0.0
    else:
        chosen = resident
        whole = measure(replace(total, n_bytes=total.resident))[0].slope_bytes_per_s
    growths = [
        settled(growth, added[i][i], recording.elapsed_s, goes_on=part.is_programs)
        if part.warms_up and (seen.watched is None or part.is_map)
        else growth
        for i, (growth, part) in enumerate(zip(growths, parts, strict=True))
    ]
    in_memory = [memory_factor(part.block_bytes) if span.in_windows and not part.is_map else 1.0 for part in parts]
    rising = sum(
        growth.slope_bytes_per_s * factor
        for growth, factor in zip(chosen, in_memory, strict=True)
        if growth.verdict is Verdict.GROWING
    )
    return Rates(growths, resident, [max(whole, rising) / factor for factor in in_memory])


def _with_blocks(mapped: Growth, blocks: Growth) -> Growth:
    """The growth of mappings with that of the blocks of the same cause, where this is certain."""
    if blocks.verdict is not Verdict.GROWING:
        return mapped
    return replace(
        mapped,
        slope_bytes_per_s=mapped.slope_bytes_per_s + blocks.slope_bytes_per_s,
        low_bytes_per_s=mapped.low_bytes_per_s + blocks.low_bytes_per_s,
        high_bytes_per_s=mapped.high_bytes_per_s + blocks.high_bytes_per_s,
    )


def _added_in_turn(curves: Curves) -> Floats:
    """What each part of the time adds, in the same time each."""
    spans = np.diff(curves.elapsed_s)
    return np.asarray(np.diff(curves.n_bytes, axis=1) * (spans.mean() / spans if len(spans) else 1.0))


def settled(growth: Growth, added: Floats, elapsed_s: float, *, goes_on: bool = False) -> Growth:
    """The growth of what a runtime takes while its program warms up: a leak only where it does not slow down.

    Code caches and tables of classes grow for minutes, ever more slowly. A leak of classes or of compiled code goes on
    as it began.

    Args:
        growth: As for any other memory.
        added: Bytes that each part of the trace added, in the same time each.
        elapsed_s: Length of the trace.
        goes_on: Whether it may slow down at first, and leak where it goes on evenly in the second half: code of the
            program asks for it, which shares much at first.
    """
    third = max(1, len(added) // 3)
    first, last = float(added[:third].sum()), float(added[-third:].sum())
    if growth.verdict is not Verdict.GROWING or last >= _EVEN_SHARE * first:
        return growth
    quarter = len(added) // 4
    is_even = quarter > 0 and added[-quarter:].sum() >= _LATE_SHARE * added[-2 * quarter : -quarter].sum()
    if goes_on and is_even and last >= _FLAT_SHARE * first:
        return growth
    if last < _FLAT_SHARE * first:
        return replace(growth, verdict=Verdict.LEVELLING_OFF, enough_s=None)
    return replace(growth, verdict=Verdict.UNDECIDED, enough_s=watch_s(3 * elapsed_s))
