"""What blocks of a size are known for: a table that grows.

Scope: sizes of glibc's chunks, which is what a walk finds: what was asked for, with 8 bytes more, rounded up to 16. A
size is a hint, never a proof; sizes that many programs ask for are left out, or say so.

Source: measured on glibc 2.36 by malloc_usable_size (stdio, opendir, zlib 1.2.13, zstd 1.5.4, lz4 1.9.4); zlib 1.2.11
to 1.3 (deflateInit2 and inflateInit2 with their usual windows; 1.3.1 has a larger pending buffer), Netty 4.1
(PoolArena: chunks of 16 MiB, 4 MiB since 4.1.75), HotSpot (arena.hpp: Chunk::size is 32, 10 or 1 KiB less 40), glibc
(tcache_perthread_struct), libstdc++ (eh_alloc.cc: its pool for exceptions; deque: 512 bytes a node), bzip2 1.0 (ftab).
"""

from __future__ import annotations

from typing import Final

_PAGE: Final = 4096
_WORD: Final = 8

_KNOWN: Final = {
    480: "a stdio stream (fopen)",
    528: "node of a std::deque",
    592: "a thread's cache of glibc",
    656: "a thread's cache of glibc",
    4112: "buffer of 4 KiB: of a stdio stream, often",
    5952: "state of a zlib deflater",
    5968: "state of a zlib deflater",
    7168: "state of a zlib inflater",
    8208: "buffer of 8 KiB",
    16400: "buffer of 16 KiB",
    16432: "state of an LZ4 compressor",
    32784: "window of a zlib inflater, or a buffer of 32 KiB",
    32832: "an open directory (opendir)",
    65552: "tables of a zlib deflater (4 each), or an NIO buffer of 64 KiB",
    72720: "pool of libstdc++ for exceptions (one a process)",
    81936: "pending output of a zlib 1.3.1 deflater",
    96000: "state of a zstd decompressor",
    131088: "buffer of 128 KiB",
    262160: "buffer of 256 KiB, or a table of bzip2",
    266232: "state of an LZ4 compressor (HC)",
}
_IN_JAVA: Final = {
    1008: "arena chunk of the JVM, the smallest",
    10224: "arena chunk of the JVM, the middle size",
    32752: "arena chunk of the JVM",
    32768: "arena chunk of the JVM",
}
_BUFFERS: Final = {
    16 << 20: ("buffer of 16 MiB", ": a chunk of Netty's pool"),
    4 << 20: ("buffer of 4 MiB", ": a chunk of Netty's pool"),
    8 << 20: ("buffer of 8 MiB", ""),
    2 << 20: ("buffer of 2 MiB", ""),
    1 << 20: ("buffer of 1 MiB", ", or a task queue of a Java collector"),
}
"""Size -> name, and what is added to it in a JVM."""


def known_as(chunk_bytes: int, *, in_java: bool = True) -> str | None:
    """What chunks of a size often are.

    Args:
        chunk_bytes: The size, with the header.
        in_java: Whether the process runs a JVM, or it is not known.

    Returns:
        None where nothing is known.
    """
    if chunk_bytes in _KNOWN:
        return _KNOWN[chunk_bytes]
    if in_java and chunk_bytes in _IN_JAVA:
        return _IN_JAVA[chunk_bytes]
    for size, (name, more) in _BUFFERS.items():
        # With its own mapping a chunk is whole pages; Java's direct buffers may have a page and a header more.
        if size <= chunk_bytes <= size + 2 * _PAGE and chunk_bytes % (2 * _WORD) == 0:
            return name + more if in_java else name
    return None
