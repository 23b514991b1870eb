"""Outstanding blocks one by one, as the kernel side keeps them (bpf/live.bpf.h), packed for the recording."""

from __future__ import annotations

import ctypes
import zlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.model import BlockChunk

MAX_BLOCKS: Final = 4 << 20
"""Blocks that are listed; further ones are left out, and counted."""
_LIVE_WORDS: Final = ctypes.sizeof(abi.Live) // 8
_ADDRESS: Final = (1 << abi.SLOT_SHIFT) - 1
_ZLIB_LEVEL: Final = 1


def read_blocks(chunks: Iterable[tuple[memoryview, memoryview, int]]) -> Iterator[BlockChunk]:
    """The live set, chunk by chunk, so that no more than one is held uncompressed.

    Args:
        chunks: Keys (u64), values (``struct nl_live`` of ``bpf/nativeleak.h``), and their number.

    Yields:
        Chunks of blocks; where blocks are left out, a last one with their number and without columns.
    """
    n_left, n_unlisted = MAX_BLOCKS, 0
    for keys, values, n_there in chunks:
        n = min(n_there, n_left)
        n_left -= n
        n_unlisted += n_there - n
        if n <= 0:
            continue
        names, words = keys[: 8 * n].cast("Q"), values[: 8 * _LIVE_WORDS * n].cast("Q")
        n_bytes, stacks = array("Q", words[::_LIVE_WORDS]), array("Q", words[1::_LIVE_WORDS])
        threads = array("I", [word & 0xFFFF_FFFF for word in words[2::_LIVE_WORDS]])
        addresses = array("Q", [name & _ADDRESS for name in names])
        slots = array("I", [name >> abi.SLOT_SHIFT for name in names])
        columns = b"".join(column.tobytes() for column in (addresses, stacks, n_bytes, slots, threads))
        yield BlockChunk(n, zlib.compress(columns, _ZLIB_LEVEL))
    if n_unlisted:
        yield BlockChunk(n_unlisted, b"")
