"""How fast the parts of the findings grow, and what their shares are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nativeleak.analysis.census_growth import Part, heap_growth, held_against_memory
from nativeleak.analysis.curves import Curves, Span, replaces_older
from nativeleak.analysis.growth import Growth, Verdict, measure, watch_s
from nativeleak.recording import Recording


@dataclass(frozen=True, slots=True)
class About:
    """What a part's rate depends on.

    Attributes:
        is_map: It is address space, whose calls are watched outside of windows too.
        block_bytes: Mean size of its blocks.
    """

    is_map: bool
    block_bytes: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Growth of all parts.

    Attributes:
        growths: Of what each holds.
        resident: Of what of it is in memory.
        whole: What shares are of, in bytes a second.
    """

    growths: list[Growth]
    resident: list[Growth]
    whole: float


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
    rising = sum(growth.slope_bytes_per_s for growth in chosen if growth.verdict is Verdict.GROWING)
    return Rates(growths, resident, max(whole, rising))
