"""What a stack tells by its names: on whose behalf memory was taken, of the program or of its run-time system."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.model import Frame, Owner

_LIBJVM: Final = "libjvm.so"
_C_LIBRARY: Final = ("libc.", "libc-", "ld-", "libpthread")
"""What the names of its files begin with."""
_JAVA_REQUESTS: Final = ("Unsafe_AllocateMemory", "Unsafe_ReallocateMemory")
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


def unmapper_of_stack(frames: Sequence[Frame]) -> Owner:
    """On whose behalf address space was given back.

    The C library's own is what it does for a thread that begins or ends: it keeps their stacks, and unmaps them
    when they are many, at any thread's end or join. Static programs have these functions in the program's own file.

    Args:
        frames: Leaf first.
    """
    for frame in frames[1:]:
        if _THREADS.match(frame.function):
            return Owner.C_LIBRARY
        if frame.module is None or not frame.module.startswith(_C_LIBRARY):
            break
    return owner_of_stack(frames)


def owner_of_stack(frames: Sequence[Frame]) -> Owner:
    """On whose behalf memory was taken.

    The JVM's own memory is what libjvm asked for without Java code asking it to: libjvm called the C library, and none
    of its functions there serves a request for memory.

    Args:
        frames: Leaf first.
    """
    above_library = False
    for frame in frames:
        module = frame.module
        if not above_library and module is not None and module.startswith(_C_LIBRARY):
            continue
        if module != _LIBJVM:
            break
        if frame.function.startswith(_JAVA_REQUESTS):
            return Owner.PROGRAM
        above_library = True
    return Owner.JVM if above_library else Owner.PROGRAM
