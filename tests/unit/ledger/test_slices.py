"""Birth slices: what the kernel's two banks hold, carried over when the width doubles."""

from __future__ import annotations

import random
import struct

import pytest

from nativeleak.ledger.slices import BANKS_BYTES, SiteSlices, generation_at, slice_seconds
from nativeleak.model import N_SLICES


class KernelSite:
    """What the BPF programs do to a site: two banks, each addressed under the generation of the moment."""

    def __init__(self) -> None:
        self.words = [0] * (BANKS_BYTES // 8)

    def add(self, born: int, generation: int, n_bytes: int, count: int) -> None:
        index = min(born >> generation, N_SLICES - 1)
        at = ((generation & 1) * N_SLICES + index) * 2
        self.words[at] += n_bytes
        self.words[at + 1] += count

    def banks(self) -> bytes:
        return struct.pack(f"={len(self.words)}q", *self.words)


def test_slices_without_a_change_of_width_are_the_banks():
    site, slices = KernelSite(), SiteSlices(0)
    site.add(0, 0, 101, 1)
    site.add(7, 0, 211, 2)
    site.add(7, 0, -101, -1)
    slices.fold(site.banks(), 0)
    values = slices.values()
    assert values[0] == (101, 1)
    assert values[7] == (110, 1)
    assert sum(count for _, count in values) == 2
    assert slices.oldest() == 0


def test_slices_merge_in_pairs_when_the_width_doubles():
    site, slices = KernelSite(), SiteSlices(0)
    for born in range(16):
        site.add(born, 0, 10 + born, 1)
    slices.fold(site.banks(), 0)
    slices.fold(site.banks(), 1)
    assert slices.values()[:8] == tuple((20 + 4 * i + 1, 2) for i in range(8))
    assert slices.values()[8:] == ((0, 0),) * 8


def test_slices_count_a_program_that_worked_under_the_old_width():
    site, slices = KernelSite(), SiteSlices(0)
    site.add(5, 0, 1009, 1)
    slices.fold(site.banks(), 0)
    slices.fold(site.banks(), 1)
    site.add(5, 0, -1009, -1)  # was under way when the width changed
    site.add(17, 1, 503, 1)
    slices.fold(site.banks(), 1)
    assert slices.values()[2] == (0, 0)
    assert slices.values()[8] == (503, 1)
    assert slices.oldest() == 8


def test_slices_of_a_site_that_began_in_a_later_generation():
    site, slices = KernelSite(), SiteSlices(3)
    site.add(100, 3, 307, 3)
    slices.fold(site.banks(), 3)
    assert slices.values()[100 >> 3] == (307, 3)


@pytest.mark.parametrize("seed", range(20))
def test_slices_agree_with_a_ledger_of_blocks_over_many_generations(seed):
    rng = random.Random(seed)
    site, slices, alive = KernelSite(), SiteSlices(0), {}
    generation = 0
    for now in range(16 << 4):
        while now >= N_SLICES << generation:
            slices.fold(site.banks(), generation)
            generation += 1
        for _ in range(rng.randrange(4)):
            block, size = object(), rng.randrange(1, 1000)
            alive[block] = (now, size)
            site.add(now, generation, size, 1)
        for block in rng.sample(list(alive), min(len(alive), rng.randrange(4))):
            born, size = alive.pop(block)
            site.add(born, generation, -size, -1)
    slices.fold(site.banks(), generation)
    wanted = [[0, 0] for _ in range(N_SLICES)]
    for born, size in alive.values():
        wanted[born >> generation][0] += size
        wanted[born >> generation][1] += 1
    assert slices.values() == tuple(map(tuple, wanted))


def test_generation_is_the_first_whose_slices_hold_the_window():
    assert generation_at(0.0) == 0
    assert generation_at(16 * slice_seconds(0) - 0.001) == 0
    assert generation_at(16 * slice_seconds(0)) == 1
    assert generation_at(3600.0) == 8
    assert 16 * slice_seconds(8) > 3600.0 > 16 * slice_seconds(7)
