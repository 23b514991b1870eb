"""Finds in a stack the frame that tells a person most: the first one above allocator functions and their wrappers."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

from nativeleak.model import Frame, FrameKind

_ALLOCATOR: Final = re.compile(
    r"""
    (?:__libc_|__GI_|__|_int_|je_|tc_|mi_|do_|x|g_|av_|OPENSSL_|CRYPTO_)?
        (?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|valloc|pvalloc|strn?dup|zalloc
          |m(?:un)?map(?:64)?|mremap|s?brk|shm(?:at|dt)|syscall|malloc0|try_malloc)(?:_n|_usable)?(?:@.*)?
    | (?:.*::)?operator\ new(?:\[\])?(?:\(.*)?
    | sysmalloc(?:_mmap)? | arena_get2 | new_heap | grow_heap | _mid_memalign | tcache_init | fallback_impl.*
    | (?:je_|tcmalloc::|mi_)\S+
    | os::(?:malloc|realloc|strdup|reserve_memory|commit_memory|pd_\w+|Linux::\w+).*
    | (?:Allocate|Reallocate)Heap.* | resource_allocate_bytes.* | (?:Chunk|Arena|CHeapObj|ArrayAllocator)\b.*
    | Unsafe_(?:Re)?[aA]llocateMemory0?.*
    | (?:jdk[./]internal|sun)[./]misc[./]Unsafe[.:]+(?:re)?allocateMemory0?.*
    | java[./]nio[./](?:DirectByteBuffer[.:]+<init>|ByteBuffer[.:]+allocateDirect|Bits[.:]+\w+).*
    | (?:de|in)flateInit\w* | zcalloc | Java_java_util_zip_\w+ | java[./]util[./]zip[./](?:Deflater|Inflater)[.:]+\S+
    | io[./]netty[./](?:buffer[./]|util[./]internal[./]PlatformDependent)\S+
    | std::(?:__cxx11::)?(?:allocator|allocator_traits|__new_allocator|_Vector_base|basic_string<.*>::_M_create)\b.*
    | __gnu_cxx::.*allocator.* | std::.*::_M_(?:allocate|realloc)\w*.*
    | __rust_(?:alloc|realloc|alloc_zeroed) | __r[dg]l_\w+ | alloc::(?:alloc|raw_vec)::.* | hashbrown::raw::.*
    | _?Py(?:Mem|Object)_\w*(?:Malloc|Calloc|Realloc) | _PyMem_\w+ | apr_p[c]?alloc | ngx_(?:p[nc]?|c)?alloc
    """,
    re.VERBOSE,
)
_OPAQUE: Final = (FrameKind.UNRESOLVED, FrameKind.STUB, FrameKind.KERNEL)


@functools.lru_cache(maxsize=1 << 14)
def is_allocator(function: str) -> bool:
    """Whether a function only hands on a request for memory, or its return."""
    return _ALLOCATOR.fullmatch(function) is not None


def headline_frame(frames: Sequence[Frame]) -> Frame | None:
    """The first frame above the allocator's that has a name; where none has, the last one below; None without any."""
    last = None
    for frame in frames:
        if frame.kind not in _OPAQUE:
            if not is_allocator(frame.function):
                return frame
            last = frame
    return last or next(iter(frames), None)
