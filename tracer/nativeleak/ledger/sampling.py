"""Variance of a site's totals, estimated from its sampled blocks.

A kept block of probability p stands for 1 / p blocks. The sum over the kept blocks is the Horvitz-Thompson estimate.
Since blocks are kept independently of each other, the sum of (1 - p) / p^2 over the kept ones (times size^2 for bytes)
is an unbiased estimate of its variance. It is summed over the live set when a snapshot is made: that set is small when
sampled, and squares of bytes would not fit the kernel's 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from nativeleak.ledger.slices import BORN_SHIFT
from nativeleak.model import Kind, SiteKey, Uncertainty

_LIVE_WORDS: Final = 4
_KEPT_ONE: Final = float(1 << 32)
_THREAD: Final = (1 << 31) - 1
"""A twin of a site (bpf/nativeleak.h, NL_TWIN) counts as the site itself."""


@dataclass(slots=True)
class LiveFacts:
    """Facts of each site from one pass over the live set.

    Attributes:
        born: Birth of the oldest block, in units of 2^20 ns since its target's window opened.
        uncertainty: Uncertainty of the sites with sampled blocks.
        n_blocks: Blocks that were read.
    """

    born: dict[SiteKey, int] = field(default_factory=dict)
    uncertainty: dict[SiteKey, Uncertainty] = field(default_factory=dict)
    n_blocks: int = 0


def born_seconds(born: int) -> float:
    """Seconds for units of 2^20 ns."""
    return (born << BORN_SHIFT) / 1e9


def read_live_set(chunks: Iterable[tuple[memoryview, memoryview, int]], slot_shift: int) -> LiveFacts:
    """Facts of all sites, in one pass.

    Args:
        chunks: Keys (u64), values (``struct nl_live`` of ``bpf/nativeleak.h``), and their number.
        slot_shift: First bit of the target's slot in a key.
    """
    facts = LiveFacts()
    oldest: dict[tuple[int, int, int], int] = {}
    sums: dict[tuple[int, int, int], list[float]] = {}
    for keys, values, n in chunks:
        addresses = keys[: n * 8].cast("Q")
        words = values[: n * 8 * _LIVE_WORDS].cast("Q")
        facts.n_blocks += n
        for i in range(n):
            n_bytes, stack, thread_born, count_kept = words[_LIVE_WORDS * i : _LIVE_WORDS * (i + 1)].tolist()
            site = (addresses[i] >> slot_shift, stack, thread_born & _THREAD)
            born = thread_born >> 32
            if born < oldest.get(site, 1 << 32):
                oldest[site] = born
            if kept := count_kept >> 32:
                p = kept / _KEPT_ONE
                row = sums.setdefault(site, [0, 0.0, 0.0])
                row[0] += 1
                row[1] += (1 - p) * n_bytes * n_bytes
                row[2] += (1 - p) / (p * p)
    facts.born = {SiteKey(Kind.HEAP, slot, thread, stack): born for (slot, stack, thread), born in oldest.items()}
    facts.uncertainty = {
        SiteKey(Kind.HEAP, slot, thread, stack): Uncertainty(int(n), variance_bytes, variance_count)
        for (slot, stack, thread), (n, variance_bytes, variance_count) in sums.items()
    }
    return facts
