"""What a stack tells by its names: on whose behalf memory was taken, of the program or of its run-time system."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import Final

from nativeleak.model import Frame, Owner

_LIBJVM: Final = "libjvm.so"
_C_LIBRARY: Final = re.compile(r"^(libc[.-]|ld-|libpthread|libc\.musl)")
_JAVA_REQUESTS: Final = re.compile(r"^Unsafe_(Allocate|Reallocate)Memory")
"""Functions of libjvm by which Java code asks for memory: what they allocate belongs to the program."""
THREAD_ROOTS: Final = frozenset(
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


_THREADS: Final = re.compile(
    r"^_*(start_thread|thread_start|clone3?|unmapself|free_stacks|(nptl|pthread)_\w+)(\.\w+)*$"
)
"""Functions of C libraries that run when a thread begins or ends."""


def giver_of_stack(frames: Sequence[Frame]) -> Owner:
    """On whose behalf address space was given back.

    The C library's own is what it does for a thread that begins or ends: it keeps their stacks, and unmaps them
    when they are many, at any thread's end or join. Static programs have these functions in the program's own file.

    Args:
        frames: Leaf first.
    """
    below = takewhile(
        lambda frame: (frame.module is not None and _C_LIBRARY.match(frame.module)) or _THREADS.match(frame.function),
        frames[1:],
    )
    return Owner.C_LIBRARY if any(_THREADS.match(frame.function) for frame in below) else owner_of_stack(frames)


def owner_of_stack(frames: Sequence[Frame]) -> Owner:
    """On whose behalf memory was taken.

    The JVM's own memory is what libjvm asked for without Java code asking it to: libjvm called the C library, and none
    of its functions there serves a request for memory.

    Args:
        frames: Leaf first.
    """
    above = dropwhile(lambda frame: frame.module is not None and _C_LIBRARY.match(frame.module), frames)
    in_libjvm = list(takewhile(lambda frame: frame.module == _LIBJVM, above))
    asked = any(_JAVA_REQUESTS.match(frame.function) for frame in in_libjvm)
    return Owner.JVM if in_libjvm and not asked else Owner.PROGRAM
