"""The JavaScript heap of V8 (Node, Deno, Electron): chunks of 256 KiB, and large objects; headers identify both.

Scope: which addresses are chunks. How much of one is in use is not told: V8 counts what was allocated, and sweeps a
chunk long after a collection (measured: 80 MB counted where heapUsed was 46 MB).

Source: src/heap/basic-memory-chunk.h of V8 11.3 (Node 20; tested with it): size, flags, heap, start and end of
the area for objects, allocated bytes. A header that does not describe itself so is no chunk: layouts that keep this
elsewhere stay unexplained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from nativeleak.heaps.memory import HeapError, HeapMemory
from nativeleak.process.procfs import PAGE_BYTES, MapEntry

_PROGRAM: Final = re.compile(r"/(?:node|nodejs|deno|electron|chrome|chromium)$|/lib(?:node|v8)[^/]*\.so[^/]*$")
_CHUNK_BYTES: Final = 256 << 10
_MAX_HEADER_BYTES: Final = 64 << 10
_MAX_CHUNK_BYTES: Final = 1 << 40
_HEADER_WORDS: Final = 6


def has_v8(maps: Iterable[MapEntry]) -> bool:
    """Whether a program or library that holds V8 is mapped."""
    return any(entry.executable and _PROGRAM.search(entry.path) for entry in maps)


def find_chunks(memory: HeapMemory, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each chunk in a range of addresses, in address order.

    Args:
        memory: Of the process.
        start: First address.
        end: First address behind it.
    """
    place = -(-start // _CHUNK_BYTES) * _CHUNK_BYTES
    while place < end:
        chunk = _chunk(memory, place, end)
        if chunk is None:
            place += _CHUNK_BYTES
            continue
        yield chunk
        place = -(-chunk[1] // _CHUNK_BYTES) * _CHUNK_BYTES


def _chunk(memory: HeapMemory, start: int, limit: int) -> tuple[int, int] | None:
    try:
        size, _, heap, area_start, area_end, allocated = memory.words(start, _HEADER_WORDS).tolist()
    except HeapError:
        return None
    is_size = 0 < size <= _MAX_CHUNK_BYTES and size % PAGE_BYTES == 0 and start + size <= limit
    is_area = start < area_start <= start + _MAX_HEADER_BYTES and area_start < area_end <= start + size
    if not is_size or not is_area or not 0 < heap < 1 << 47 or allocated > size:
        return None
    return start, start + size
