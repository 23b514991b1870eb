"""What the live set says of ages and certainty."""

from __future__ import annotations

import struct

import pytest

from nativeleak.ledger.sampling import read_live_set
from nativeleak.model import Kind, SiteKey

LIVE = struct.Struct("=QQIIII")
HALF = 1 << 31
SHIFT = 56


def chunk(*blocks: tuple[int, int, int, int, int, int, int]) -> tuple[memoryview, memoryview, int]:
    """Blocks as (slot, bytes, stack, thread, born, count, kept)."""
    keys = b"".join(struct.pack("=Q", block[0] << SHIFT | 4096 * i) for i, block in enumerate(blocks, 1))
    values = b"".join(LIVE.pack(*block[1:]) for block in blocks)
    return memoryview(keys + bytes(80)), memoryview(values + bytes(320)), len(blocks)


def test_live_set_gives_the_oldest_birth_and_the_variance_of_each_site():
    facts = read_live_set(
        [
            chunk((1, 2000, 77, 5, 30, 2, HALF), (1, 100, 77, 5, 20, 1, 0)),
            chunk((1, 600, 77, 5, 25, 2, HALF), (2, 300, 77, 5, 9, 1, 0)),
        ],
        SHIFT,
    )
    sampled, exact = SiteKey(Kind.HEAP, 1, 5, 77), SiteKey(Kind.HEAP, 2, 5, 77)
    assert facts.born == {sampled: 20, exact: 9}
    assert facts.n_blocks == 4
    # p = 1/2: (1 - p) * (size / p)^2 and (1 - p) / p^2 for each kept by chance.
    assert facts.uncertainty.keys() == {sampled}
    assert facts.uncertainty[sampled].n_sampled == 2
    assert facts.uncertainty[sampled].variance_bytes == pytest.approx(0.5 * 2000**2 + 0.5 * 600**2)
    assert facts.uncertainty[sampled].variance_count == pytest.approx(2 * 0.5 / 0.25)
