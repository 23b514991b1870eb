"""Sites of two parts: read together, deleted where they are."""

from __future__ import annotations

import ctypes
import struct

from made_up_maps import MadeUpMap, array
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.site_store import N_CACHED, SiteStore, cache_entries, cache_index

KEY = struct.Struct("=QII")
SITE_BYTES = ctypes.sizeof(abi.Site)
SLOT, THREAD = 3, 17
CACHED_STACK, OTHER_STACK = 0x0123456789ABCDEF, 0xFEDCBA9876543211


def value(n: int) -> bytes:
    return bytes([n]) * SITE_BYTES


def made() -> tuple[SiteStore, dict[str, MadeUpMap]]:
    n = cache_entries(1 << 16)
    maps = {
        "site_cache_used": array([bytes(8)] * n),
        "site_cache_keys": array([bytes(KEY.size)] * n),
        "site_cache": array([bytes(SITE_BYTES)] * n),
        "sites": MadeUpMap({}),
        "marked_sites": array([bytes(ctypes.sizeof(abi.MarkedSites))]),
    }
    store = SiteStore(lambda name, _key, _value: maps[name])
    store.add_others(SLOT)
    place = struct.pack("=I", cache_index(SLOT, THREAD, CACHED_STACK))
    maps["site_cache_used"].update(place, struct.pack("=Q", 1))
    maps["site_cache_keys"].update(place, KEY.pack(CACHED_STACK, THREAD, SLOT))
    maps["site_cache"].update(place, value(5))
    maps["sites"].update(KEY.pack(OTHER_STACK, THREAD, SLOT), value(7))
    return store, maps


def read(store: SiteStore) -> dict[tuple[int, int, int], bytes]:
    return {(site.slot, site.thread, site.stack): site.value for site in store.read()}


def test_sites_of_both_parts_are_read():
    store, _ = made()
    assert read(store) == {
        (SLOT, 0, 0): value(0),
        (SLOT, THREAD, CACHED_STACK): value(5),
        (SLOT, THREAD, OTHER_STACK): value(7),
    }


def test_site_is_deleted_where_it_is_and_its_place_is_free_again():
    store, maps = made()
    store.delete([(SLOT, THREAD, OTHER_STACK)])
    assert {*read(store)} == {(SLOT, 0, 0), (SLOT, THREAD, CACHED_STACK)}
    store.delete([(SLOT, THREAD, CACHED_STACK)])
    assert {*read(store)} == {(SLOT, 0, 0)}
    for name in ("site_cache_used", "site_cache_keys", "site_cache"):
        assert not any(map(any, maps[name].rows.values())), name


def test_place_of_a_site_is_one_of_those_there_are_and_never_the_first():
    places = {cache_index(slot, thread, CACHED_STACK * thread) for slot in range(3) for thread in range(1, 4099)}
    assert places <= {*range(1, N_CACHED + 1)}
    assert len(places) > 0.9 * N_CACHED
    assert cache_entries(2 * N_CACHED - 1) == 1
