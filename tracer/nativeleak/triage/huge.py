"""Huge pages that hold zeros: memory that nobody wrote, and that is resident all the same.

Scope: anonymous huge pages of 2 MiB. A sample of small pages inside of them is read; all of them are in memory.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from nativeleak.heaps.memory import HeapMemory
from nativeleak.process.procfs import PAGE_BYTES
from nativeleak.triage.regions import Region

HUGE_BYTES: Final = 2 << 20
_MAX_AREAS: Final = 96
_PAGES_AN_AREA: Final = 32
_WORDS: Final = PAGE_BYTES // 8


def zero_bytes(memory: HeapMemory, regions: Sequence[Region]) -> int | None:
    """About how many bytes of anonymous huge pages are small pages of zeros; None where nothing was looked at.

    Which areas of a mapping are huge pages is not asked: an area is taken for one if its 512 pages are all in memory,
    and the share found is applied to what the kernel says of the mapping.
    """
    total, seen = 0.0, 0
    with_huge = [region for region in regions if region.huge >= HUGE_BYTES]
    everything = sum(region.huge for region in with_huge)
    chance = random.Random(0)
    for region in with_huge:
        n_areas = max(1, round(_MAX_AREAS * region.huge / everything))
        areas = _whole_areas(memory, region)
        n_pages = n_zero = 0
        for area in chance.sample(areas, min(n_areas, len(areas))):
            for page in chance.sample(range(HUGE_BYTES // PAGE_BYTES), _PAGES_AN_AREA):
                address = area + page * PAGE_BYTES
                window = memory.window(address, address + PAGE_BYTES)
                if window.present:
                    n_pages += 1
                    n_zero += not window.words.any()
        if n_pages:
            total += region.huge * n_zero / n_pages
            seen += n_pages
    return round(total) if seen else None


def _whole_areas(memory: HeapMemory, region: Region) -> list[int]:
    """Starts of the areas of 2 MiB that are in memory as a whole."""
    areas: list[int] = []
    for low, high in memory.present_runs(region.start, region.end):
        first = -(-low // HUGE_BYTES) * HUGE_BYTES
        areas += range(first, high - HUGE_BYTES + 1, HUGE_BYTES)
    return areas
