"""The live set as the kernel side keeps it (bpf/live.bpf.h): a direct-mapped cache, and a hash for the others."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap

N_CACHED: Final = 1 << abi.LIVE_CACHE_BITS
_MIN_SHARE: Final = 2
"""The cache is used where the bound on the live set is at least this many times its size."""
_BATCH: Final = 1 << 15
_CACHE_BATCH: Final = 1 << 12
_BLOCK_BYTES: Final = ctypes.sizeof(abi.Live)
_FREE: Final = (0, abi.LIVE_CACHE_BUSY)

_KEY: Final = struct.Struct("=Q")
_INDEX: Final = struct.Struct("=I")

MAP_NAMES: Final = ("live_cache_keys", "live_cache", "live_overflow")


def cache_entries(n_allocations: int) -> int:
    """Elements of the maps of the cache under a bound on the live set; element 0 is never used."""
    return 1 + (N_CACHED if n_allocations >= _MIN_SHARE * N_CACHED else 0)


class LiveSet:
    """What is outstanding, by address.

    Args:
        take: A map by its name, with the sizes of key and value.
    """

    def __init__(self, take: Callable[[str, int, int], BpfMap]) -> None:
        self._keys = take("live_cache_keys", 4, 8)
        self._blocks = take("live_cache", 4, _BLOCK_BYTES)
        self._overflow = take("live_overflow", 4, 4)
        self._rest = take("live", 8, _BLOCK_BYTES)

    def find(self, key: int) -> bytes | None:
        """The value of a block (``struct nl_live``); None where it is not there."""
        index = _INDEX.pack(1 + (key * abi.HASH_FACTOR % (1 << 64) >> 64 - abi.LIVE_CACHE_BITS))
        name = _KEY.pack(key)
        return self._blocks.lookup(index) if self._keys.lookup(index) == name else self._rest.lookup(name)

    def remove(self, keys: Sequence[int]) -> None:
        """Forget some blocks; while nobody else writes."""
        for key in keys:
            index = _INDEX.pack(1 + (key * abi.HASH_FACTOR % (1 << 64) >> 64 - abi.LIVE_CACHE_BITS))
            name = _KEY.pack(key)
            if self._keys.lookup(index) == name:
                self._keys.update(index, _KEY.pack(0))
            elif self._rest.delete(name) and (others := self._overflow.lookup(index)) is not None:
                self._overflow.update(index, _INDEX.pack(max(0, _INDEX.unpack(others)[0] - 1)))

    def batches(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of keys (u64), values (``struct nl_live``), how many; each valid until the next.

        What is allocated or freed meanwhile may be there or not.
        """
        yield from self._rest.batches(_BATCH)
        cached = zip(self._keys.batches(_CACHE_BATCH), self._blocks.batches(_CACHE_BATCH), strict=False)
        for (_, keys, n), (_, blocks, n_blocks) in cached:
            taken = [i for i, key in enumerate(keys[: 8 * n].cast("Q")) if key not in _FREE and i < n_blocks]
            yield (
                memoryview(b"".join(keys[8 * i : 8 * i + 8] for i in taken)),
                memoryview(b"".join(blocks[_BLOCK_BYTES * i : _BLOCK_BYTES * (i + 1)] for i in taken)),
                len(taken),
            )
