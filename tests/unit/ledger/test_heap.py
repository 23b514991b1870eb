"""Heap totals: from what the kernel holds to snapshots, and the retirement of sites."""

from __future__ import annotations

import struct

from nativeleak.ledger.heap import HeapLedger, SiteLabel
from nativeleak.ledger.slices import BANKS_BYTES, slice_seconds
from nativeleak.model import Kind, Owner, SiteKey

LABEL = SiteLabel(("malloc",), Owner.PROGRAM)


def raw(freed, allocated, slices=None):
    """A ``struct nl_site``: (bytes, count) freed and allocated, and slices of bank 0 by index."""
    words = [0] * (BANKS_BYTES // 8)
    for index, (n_bytes, count) in (slices or {}).items():
        words[2 * index], words[2 * index + 1] = n_bytes, count
    return struct.pack("=QQQQII", *freed, *allocated, 0, 0) + struct.pack(f"={len(words)}q", *words)


def test_snapshot_of_a_site_has_its_totals_slices_and_age():
    heap = HeapLedger()
    heap.read([(0, 3, 77, raw((101, 1), (1009, 5), {2: (908, 4)}))], 0)
    (site,) = heap.snapshot(10.0, 0, lambda _: LABEL)
    assert site.key == SiteKey(Kind.HEAP, 0, 3, 77)
    assert (site.outstanding_bytes, site.outstanding_count) == (908, 4)
    assert site.slices[2] == (908, 4)
    assert site.oldest_s == round(10.0 - 2 * slice_seconds(0), 3)
    assert site.functions == ("malloc",)
    assert heap.outstanding() == (908, 4)


def test_snapshot_takes_exact_ages_where_they_are_known():
    heap = HeapLedger()
    heap.read([(0, 3, 77, raw((0, 0), (11, 1), {0: (11, 1)}))], 0)
    (site,) = heap.snapshot(10.0, 0, lambda _: LABEL, {SiteKey(Kind.HEAP, 0, 3, 77): 7.25})
    assert site.oldest_s == 2.75


def test_site_of_nothing_is_left_out():
    heap = HeapLedger()
    heap.read([(0, 0, 0, raw((0, 0), (0, 0)))], 0)
    assert heap.n_sites == 0


def test_retire_moves_what_ended_threads_gave_back_into_one_sum():
    heap = HeapLedger()
    heap.read(
        [
            (0, 1, 10, raw((101, 1), (101, 1))),
            (0, 1, 11, raw((0, 0), (13, 1), {0: (13, 1)})),
            (0, 2, 10, raw((17, 1), (17, 1))),
        ],
        0,
    )
    assert heap.retire({1}.__contains__) == [SiteKey(Kind.HEAP, 0, 1, 10)]
    assert heap.n_sites == 2
    (retired,) = heap.retired()
    assert (retired.allocated_bytes, retired.freed_count) == (101, 1)
    assert heap.allocated() == (101 + 13 + 17, 3, 101 + 17, 2)


def test_by_outstanding_is_largest_first():
    heap = HeapLedger()
    heap.read([(0, 1, i, raw((0, 0), (i * 10, 1))) for i in (1, 3, 2)], 0)
    assert [(key.stack_key, n_bytes) for key, n_bytes, _ in heap.by_outstanding(2)] == [(3, 30), (2, 20)]
