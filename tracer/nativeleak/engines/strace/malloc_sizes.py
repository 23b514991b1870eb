"""Mappings by which malloc serves a large block, known by their size.

Scope: glibc. From 128 KiB on (``M_MMAP_THRESHOLD``, which grows as such blocks are freed) malloc takes a block from
mmap, with 16 bytes of header, rounded up to pages: a round number of bytes takes a page more.

Source: ``sysmalloc_mmap`` in malloc/malloc.c: ALIGN_UP (nb + SIZE_SZ, pagesize), nb the request plus a word, rounded up
to 16 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.engines.strace.arguments import MAP
from nativeleak.units import format_bytes

PAGE: Final = 4096
MIN_BYTES: Final = 128 << 10
HEADER_BYTES: Final = 16
_ROUND_BYTES: Final = 64 << 10
_MALLOC: Final = re.compile(
    r"(?:__libc_|__)?(?:malloc|calloc|realloc|memalign|posix_memalign|aligned_alloc|valloc|pvalloc)\b"
)
_LIBC: Final = re.compile(r"/libc(?:[.-][^/]*)?\.so[^/]*$")
_FLAGS: Final = MAP["MAP_PRIVATE"] | MAP["MAP_ANONYMOUS"]
_READ_WRITE: Final = 3


def block_bytes(length: int) -> int:
    """The largest request that a mapping of this length can serve: 16 MiB for 16,781,312 bytes, where it is round.

    Returns:
        Bytes; 0 where the mapping is not a page longer than a multiple of 64 KiB, or too short.
    """
    asked = length - PAGE
    return asked if asked >= MIN_BYTES and asked % _ROUND_BYTES == 0 else 0


def malloc_mark(length: int, prot: int, flags: int, printed: Sequence[str] = ()) -> str:
    """What to say of a mapping that serves a malloc: ``16 MiB malloc served by mmap``; empty for any other.

    Args:
        length: Of the mapping, bytes.
        prot: As given to mmap.
        flags: As given to mmap.
        printed: Its stack as strace prints it; without one the size alone decides.
    """
    if prot != _READ_WRITE or flags & ~MAP["MAP_NORESERVE"] != _FLAGS or length < MIN_BYTES:
        return ""
    asked = block_bytes(length)
    if printed and not any(_is_malloc(line) for line in printed[:12]):
        return ""
    if asked:
        return f"[{format_bytes(asked)} malloc served by mmap]"
    if not printed:
        return ""
    return f"[malloc of up to {length - HEADER_BYTES:,} bytes served by mmap]"


def _is_malloc(line: str) -> bool:
    path, parenthesis, inner = line.partition("(")
    return bool(parenthesis and _LIBC.search(path) and _MALLOC.match(inner))
