"""Finds in a stack the frame that tells a person most: the first one above allocator functions and their wrappers."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, FrameKind

_ALLOCATORS: Final = r"""
    (?:__libc_|__GI_|__|_int_|je_|tc_|mi_|do_|x|g_|av_|OPENSSL_|CRYPTO_)?
        (?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|valloc|pvalloc|strn?dup|zalloc
          |m(?:un)?map(?:64)?|mremap|s?brk|shm(?:at|dt)|syscall|malloc0|try_malloc)(?:_n|_usable)?(?:@.*)?
    | (?:.*::)?operator\ new(?:\[\])?(?:\(.*)?
    | sysmalloc(?:_mmap)? | arena_get2 | new_heap | grow_heap | _mid_memalign | tcache_init | fallback_impl.*
    | (?:_rjem_|je_|tcmalloc::|tc_|scalable_|(?:\w+_)?mi_)\S+
    | (?:de|in)flateInit\w* | zcalloc
    | std::(?:__cxx11::)?(?:allocator|allocator_traits|__new_allocator|_Vector_base|basic_string<.*>::_M_create)\b.*
    | __gnu_cxx::.*allocator.* | std::.*::_M_(?:allocate|realloc)\w*.*
    | __rust_(?:alloc|realloc|alloc_zeroed) | __r[dg]l_\w+ | alloc::(?:alloc|raw_vec)::.* | hashbrown::raw::.*
    | _?Py(?:Mem|Object)_\w*(?:Malloc|Calloc|Realloc) | _PyMem_\w+ | apr_p[c]?alloc | ngx_(?:p[nc]?|c)?alloc
    """
"""Functions of native code; those of runtimes are in their tables."""
_OPAQUE: Final = (FrameKind.UNRESOLVED, FrameKind.STUB, FrameKind.KERNEL)


@functools.lru_cache(maxsize=4)
def _pattern(runtimes: tuple[RuntimeFrames, ...]) -> re.Pattern[str]:
    parts = [_ALLOCATORS, *(runtime.allocators for runtime in runtimes if runtime.allocators)]
    return re.compile(" | ".join(parts), re.VERBOSE)


@functools.lru_cache(maxsize=1 << 14)
def is_allocator(function: str, runtimes: tuple[RuntimeFrames, ...]) -> bool:
    """Whether a function only passes on a request for memory, or its return.

    Args:
        function: Its name.
        runtimes: All that are known.
    """
    return _pattern(runtimes).fullmatch(function) is not None


def headline_frame(frames: Sequence[Frame], runtimes: tuple[RuntimeFrames, ...]) -> Frame | None:
    """The first frame above the allocator's that has a name; where none has, the last one below; None without any.

    Args:
        frames: Leaf first.
        runtimes: All that are known.
    """
    last = None
    for frame in frames:
        if frame.kind not in _OPAQUE:
            if not is_allocator(frame.function, runtimes):
                return frame
            last = frame
    return last or next(iter(frames), None)
