"""What blocks of a size are known for.

Scope: sizes of glibc's chunks, which is what a walk finds; a size is a hint, never a proof.

Source: zlib 1.2.11 to 1.3 (deflateInit2 and inflateInit2 with their usual windows), Netty 4.1 (PoolArena: chunks of 16
MiB, 4 MiB since 4.1.75), HotSpot (arena.hpp: Chunk::size), glibc (tcache_perthread_struct, the loader's vector of a
thread), libstdc++ since GCC 5 (eh_alloc.cc: the emergency pool).
"""

from __future__ import annotations

from typing import Final

_PAGE: Final = 4096
_WORD: Final = 8

_KNOWN: Final = {
    656: "a thread's cache of glibc",
    592: "a thread's cache of glibc",
    5952: "state of a zlib deflater",
    5968: "state of a zlib deflater",
    7168: "state of a zlib inflater",
    32784: "window of a zlib inflater, or a buffer of 32 KiB",
    65552: "tables of a zlib deflater (4 each), or a buffer of 64 KiB",
    72720: "pool of libstdc++ for exceptions",
    32752: "arena chunk of the JVM",
    32768: "arena chunk of the JVM",
}
_BUFFERS: Final = {
    16 << 20: "buffer of 16 MiB: a chunk of Netty's pool",
    4 << 20: "buffer of 4 MiB: a chunk of Netty's pool",
    8 << 20: "buffer of 8 MiB",
    1 << 20: "buffer of 1 MiB",
}


def known_as(chunk_bytes: int) -> str | None:
    """What chunks of this size often are; None where nothing is known."""
    if chunk_bytes in _KNOWN:
        return _KNOWN[chunk_bytes]
    for size, name in _BUFFERS.items():
        # With its own mapping a chunk is whole pages; Java's direct buffers may have a page and a header more.
        if size < chunk_bytes <= size + 2 * _PAGE and chunk_bytes % (2 * _WORD) == 0:
            return name
    return None
