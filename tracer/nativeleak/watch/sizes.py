"""Sizes of blocks that grow, with their rate: what a leak looks like from outside, without a probe.

Caveat: a size class names no caller, and a cache that fills grows too. The next step is a trace of these sizes alone.

Source: arena.md, 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.analysis.growth import Growth
from nativeleak.heaps.difference import SizeCourse, requests_of
from nativeleak.watch.courses import rows_of

_CANDIDATES: Final = 4
"""Times the rows wanted: those that gained most need not be those that grow most evenly."""


@dataclass(frozen=True, slots=True)
class SizeRow:
    """One size class that gained blocks while it was watched.

    Attributes:
        kind: Of the allocator.
        sizes: Sizes of its blocks with header; two where neighbours are joined.
        requests: Least and most bytes that a program asks for to get them; None where unknown.
        known: What blocks of this size often are; None where nothing is known.
        n_first: Blocks in use at the first walk.
        n_last: At the newest.
        bytes_gained: Bytes of them gained.
        blocks_per_s: Mean rate.
        growth: Of the bytes.
    """

    kind: str
    sizes: tuple[int, ...]
    requests: tuple[int, int] | None
    known: str | None
    n_first: int
    n_last: int
    bytes_gained: int
    blocks_per_s: float
    growth: Growth


def size_rows(course: SizeCourse, n_most: int, known_as: Callable[[int], str | None]) -> list[SizeRow]:
    """The size classes that grow, the fastest first; before four walks those that gained most.

    Args:
        course: The walks.
        n_most: At most so many.
        known_as: Says what chunks of a size often are in this process.
    """
    classes = course.rows(_CANDIDATES * n_most)
    times = course.elapsed_s
    if not classes or times[-1] <= times[0]:
        return []
    n_bytes = np.array([each.n_bytes for each in classes], np.float64)
    n_blocks = np.array([each.n_blocks for each in classes], np.float64)
    names = [str(number) for number in range(len(classes))]
    found = []
    for row in rows_of(names, times, n_bytes, n_blocks)[:n_most]:
        each = classes[int(row.name)]
        n_first, n_last = int(each.n_blocks[0]), int(each.n_blocks[-1])
        found.append(
            SizeRow(
                each.kind, each.sizes, requests_of(each.kind, each.sizes),
                next((known for size in each.sizes if (known := known_as(size))), None),
                n_first, n_last, round(row.last_bytes - row.first_bytes),
                (n_last - n_first) / (times[-1] - times[0]), row.growth,
            )
        )  # fmt: skip
    return found
