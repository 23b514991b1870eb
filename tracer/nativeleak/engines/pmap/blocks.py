"""Blocks that glibc's malloc has from mmap, found by the headers in front of them.

Only pages that are in memory are read: a read of one that is not would bring it in. At the start of the block lies
{size of what is before it, size of the block with IS_MMAPPED (2) as its only flag}.

Source: ``struct malloc_chunk`` and ``sysmalloc_mmap`` in malloc/malloc.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from nativeleak.engines.strace.malloc_sizes import PAGE

_HEADER: Final = struct.Struct("<QQ")
HEADER_BYTES: Final = _HEADER.size
_FLAGS: Final = 7
_IS_MMAPPED: Final = 2
_MAX_BLOCKS: Final = 1 << 16


def parse_header(header: bytes, room: int) -> int:
    """Bytes of the block that these bytes are the header of, 0 for none.

    Args:
        header: 16 bytes at the start of a page.
        room: Bytes from there to the end of the mapping.
    """
    if len(header) != HEADER_BYTES:
        return 0
    before, size = _HEADER.unpack(header)
    n_bytes: int = size & ~_FLAGS
    is_block = size & _FLAGS == _IS_MMAPPED and before < PAGE and before % 16 == 0
    return n_bytes if is_block and PAGE <= n_bytes <= room and (n_bytes + before) % PAGE == 0 else 0


def find_blocks(start: int, end: int, read: Callable[[int], bytes]) -> Iterator[tuple[int, int]]:
    """(start, end) of the blocks from the start of a range on, one behind the other, up to the first that is none.

    Args:
        start: Of the range; a page.
        end: Of the range.
        read: Gives 16 bytes at an address; none where its page is not in memory.
    """
    for _ in range(_MAX_BLOCKS):
        n_bytes = parse_header(read(start), end - start) if start < end else 0
        if not n_bytes or n_bytes % PAGE:
            return
        yield start, start + n_bytes
        start += n_bytes
