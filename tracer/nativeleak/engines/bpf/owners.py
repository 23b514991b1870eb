"""What a stack tells by its names: on whose behalf memory was taken, and which function says most about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import Final

from nativeleak.model import Frame, FrameKind, Owner

_LIBJVM: Final = "libjvm.so"
_C_LIBRARY: Final = re.compile(r"^(libc[.-]|ld-|libpthread|libc\.musl)")
_JAVA_REQUESTS: Final = re.compile(r"^Unsafe_(Allocate|Reallocate)Memory")
"""Functions of libjvm by which Java code asks for memory: what they allocate belongs to the program."""
_ROOTS: Final = frozenset(
    {
        "_start",
        "__libc_start_main",
        "__libc_start_call_main",
        "start_thread",
        "clone",
        "clone3",
        "__clone",
        "thread_start",
    }
)
_WRAPPERS: Final = re.compile(
    r"^(malloc|calloc|realloc|reallocarray|posix_memalign|aligned_alloc|memalign|valloc|pvalloc|free|mmap(64)?|mremap"
    r"|brk|sbrk|shmat|syscall|operator new|operator new\[\]|std::|__gnu_cxx::|os::malloc|os::realloc|AllocateHeap"
    r"|Unsafe_AllocateMemory0?|strdup|strndup|asprintf|vasprintf|g_malloc|xmalloc)"
)


def owner_of_stack(frames: Sequence[Frame], function: str) -> tuple[Owner, bool, str]:
    """Owner, whether the stack reaches its root, and the most telling function.

    The JVM's own memory is what libjvm asked for without Java code asking it to: libjvm called the C library, and none
    of its functions there serves a request for memory.

    Args:
        frames: Leaf first.
        function: The allocator function or system call at the leaf.
    """
    above = dropwhile(lambda frame: frame.module is not None and _C_LIBRARY.match(frame.module), frames)
    in_libjvm = list(takewhile(lambda frame: frame.module == _LIBJVM, above))
    asked = any(_JAVA_REQUESTS.match(frame.function) for frame in in_libjvm)
    owner = Owner.JVM if in_libjvm and not asked else Owner.PROGRAM
    last = frames[-1] if frames else None
    at_root = last is not None and last.function in _ROOTS
    headline = next(
        (f.function for f in frames[1:] if f.kind is not FrameKind.UNRESOLVED and not _WRAPPERS.match(f.function)),
        frames[1].function if len(frames) > 1 else function,
    )
    return owner, at_root, headline
