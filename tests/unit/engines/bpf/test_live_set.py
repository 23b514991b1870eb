"""Reading the live set of two parts."""

from __future__ import annotations

import struct

import pytest

from made_up_maps import MadeUpMap, array
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.live_set import N_CACHED, LiveSet, cache_entries

BLOCK = struct.Struct("=QQIIII")


def block(n_bytes: int) -> bytes:
    return BLOCK.pack(n_bytes, 11, 13, 17, 1, 0)


def made(keys: list[int], rest: list[tuple[int, int]]) -> tuple[LiveSet, dict[str, MadeUpMap]]:
    maps = {
        "live_cache_keys": array([struct.pack("=Q", key) for key in keys]),
        "live_cache": array([block(1000 + key) for key in keys]),
        "live_overflow": array([struct.pack("=I", 1) for _ in keys]),
        "live": MadeUpMap({struct.pack("=Q", key): block(n_bytes) for key, n_bytes in rest}),
    }
    return LiveSet(lambda name, _key, _value: maps[name]), maps


def read(live_set: LiveSet) -> dict[int, int]:
    found: dict[int, int] = {}
    for keys, values, n in live_set.batches():
        for i in range(n):
            found[keys[: 8 * n].cast("Q")[i]] = BLOCK.unpack_from(values, BLOCK.size * i)[0]
    return found


def test_free_and_unfinished_places_are_no_blocks():
    live_set, _ = made([0, 4099, abi.LIVE_CACHE_BUSY, 0, 8209], [(16411, 7), (32771, 11), (65537, 13)])
    assert read(live_set) == {4099: 5099, 8209: 9209, 16411: 7, 32771: 11, 65537: 13}


def test_blocks_that_were_removed_are_gone_wherever_they_were_and_the_others_stay():
    key = 0x7F00_1234_5670
    index = 1 + (key * abi.HASH_FACTOR % (1 << 64) >> 64 - abi.LIVE_CACHE_BITS)
    live_set, maps = made([], [(16411, 7), (32771, 11)])
    maps["live_cache_keys"].rows[struct.pack("=I", index)] = struct.pack("=Q", key)
    maps["live_cache"].rows[struct.pack("=I", index)] = block(13)
    overflow = struct.pack("=I", 1 + (16411 * abi.HASH_FACTOR % (1 << 64) >> 64 - abi.LIVE_CACHE_BITS))
    maps["live_overflow"].rows[overflow] = struct.pack("=I", 1)
    live_set.remove([key, 16411, 4242])
    assert read(live_set) == {32771: 11}
    assert maps["live_overflow"].rows[overflow] == bytes(4)


@pytest.mark.parametrize(("limit", "entries"), [(0, 1), (1000, 1), (2 * N_CACHED - 1, 1), (2 * N_CACHED, 1 + N_CACHED)])
def test_small_live_sets_have_no_cache(limit, entries):
    assert cache_entries(limit) == entries
