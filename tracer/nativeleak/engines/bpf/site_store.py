"""Sites as the kernel side keeps them (bpf/sites.bpf.h): a direct-mapped cache, and a hash for the others."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap
from nativeleak.engines.bpf.raw import RawSite

N_CACHED: Final = 1 << abi.SITE_CACHE_BITS
_MIN_SHARE: Final = 2
"""The cache is used where the bound on sites is at least this many times its size."""
_KEY: Final = struct.Struct("=QII")
_INDEX: Final = struct.Struct("=I")
_SITE_BYTES: Final = ctypes.sizeof(abi.Site)
_BATCH: Final = 1 << 11
_CACHE_BATCH: Final = 1 << 8
"""Sites are half a kilobyte each."""
_TAKEN: Final = struct.pack("=Q", 1)
_FREE: Final = bytes(8)
_WORD: Final = (1 << 64) - 1
_ZERO_INDEX: Final = bytes(4)
_COUNT: Final = struct.Struct("=Q")
_MARKED: Final = struct.Struct("=QIIII")
_MARKED_BYTES: Final = ctypes.sizeof(abi.MarkedSites)

MAP_NAMES: Final = ("site_cache_used", "site_cache_keys", "site_cache")


def cache_entries(n_sites: int) -> int:
    """Elements of the maps of the cache under a bound on the sites; element 0 is never used."""
    return 1 + (N_CACHED if n_sites >= _MIN_SHARE * N_CACHED else 0)


def cache_index(slot: int, thread: int, stack: int) -> int:
    """Cache entry of a site: bpf/sites.bpf.h, site_cache_index."""
    word = (stack ^ thread << 32 ^ slot) * abi.HASH_FACTOR & _WORD
    return 1 + (word >> (64 - abi.SITE_CACHE_BITS))


class SiteStore:
    """Totals by site.

    Args:
        take: A map by its name, with the sizes of key and value.
    """

    def __init__(self, take: Callable[[str, int, int], BpfMap]) -> None:
        self._states = take("site_cache_used", 4, 8)
        self._keys = take("site_cache_keys", 4, _KEY.size)
        self._cache = take("site_cache", 4, _SITE_BYTES)
        self._rest = take("sites", _KEY.size, _SITE_BYTES)
        self._marked = take("marked_sites", 4, _MARKED_BYTES)

    def add_others(self, slot: int) -> None:
        """Make the site for what finds no room, or no stack."""
        self._rest.update(_KEY.pack(0, 0, slot), bytes(_SITE_BYTES))

    def read(self) -> Iterator[RawSite]:
        """All sites, each valid until the next; a site that changes meanwhile may come twice."""
        for keys, values, n in self._rest.batches(_BATCH):
            places = range(0, n * _SITE_BYTES, _SITE_BYTES)
            for (stack, thread, slot), at in zip(_KEY.iter_unpack(keys[: n * _KEY.size]), places, strict=True):
                yield RawSite(slot, thread, stack, values[at : at + _SITE_BYTES])
        keys_of: list[tuple[int, int, int]] = []
        for _, keys, n in self._keys.batches():
            keys_of += _KEY.iter_unpack(keys[: n * _KEY.size])
        for indices, values, n in self._cache.batches(_CACHE_BATCH):
            for i, (index,) in enumerate(_INDEX.iter_unpack(indices[: n * _INDEX.size])):
                stack, thread, slot = keys_of[index]
                if stack:
                    yield RawSite(slot, thread, stack, values[i * _SITE_BYTES : (i + 1) * _SITE_BYTES])

    def mark(self, sites: Sequence[tuple[int, int, int, int]], run: Callable[[], None]) -> None:
        """Change ``check`` of sites where they are: (slot, thread, stack, new value).

        Args:
            run: Runs the program ``on_retire``.
        """
        for start in range(0, len(sites), abi.RETIRING_SITES):
            part = sites[start : start + abi.RETIRING_SITES]
            words = b"".join(_MARKED.pack(stack, thread, slot, check, 0) for slot, thread, stack, check in part)
            self._marked.update(_ZERO_INDEX, (_COUNT.pack(len(part)) + words).ljust(_MARKED_BYTES, b"\0"))
            run()

    def delete(self, sites: Sequence[tuple[int, int, int]]) -> None:
        """Drop sites of which nothing is outstanding and on which nothing is booked any more: (slot, thread, stack).

        The thread of each is gone, or it is marked with ``abi.RETIRING`` and the programs of that moment have ended.
        """
        cached: dict[bytes, int] = {}
        for numbers, keys, n in self._keys.batches():
            found = (bytes(keys[i * _KEY.size : (i + 1) * _KEY.size]) for i in range(n))
            cached.update(zip(found, (i for (i,) in _INDEX.iter_unpack(numbers[: n * _INDEX.size])), strict=True))
        wanted = [_KEY.pack(stack, thread, slot) for slot, thread, stack in sites]
        self._rest.delete_many([key for key in wanted if key not in cached])
        for key in wanted:
            if key in cached:
                self._free(_INDEX.pack(cached[key]))

    def _free(self, place: bytes) -> None:
        """Make an entry of the cache free."""
        # Nobody looks for it any more, and nobody takes the place before its state is free.
        self._states.update(place, _TAKEN)
        self._keys.update(place, bytes(_KEY.size))
        self._cache.update(place, bytes(_SITE_BYTES))
        self._states.update(place, _FREE)
