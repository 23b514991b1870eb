"""On whose behalf memory was taken or given back, read from the names on a stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, Owner

_C_LIBRARY: Final = ("libc.", "libc-", "ld-", "libpthread")
"""Beginnings of the names of its files."""
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


def unmapper_of_stack(frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]) -> Owner:
    """On whose behalf address space was given back.

    The C library's own is what it does for a thread that begins or ends: it keeps their stacks, and unmaps them
    when they are many, at any thread's end or join. Static programs have these functions in the program's own file.

    Args:
        frames: Leaf first.
        runtimes: All that are known.
    """
    for frame in frames[1:]:
        if _THREADS.match(frame.function):
            return Owner.C_LIBRARY
        if frame.module is None or not frame.module.startswith(_C_LIBRARY):
            break
    return owner_of_stack(frames, runtimes)


def owner_of_stack(frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]) -> Owner:
    """On whose behalf memory was taken.

    A runtime's own memory is what its library asked for without the program's asking: the library called the C
    library, and none of its functions there serves a request of the program.

    Args:
        frames: Leaf first.
        runtimes: All that are known.
    """
    runtime: RuntimeFrames | None = None
    for frame in frames:
        module = frame.module
        if runtime is None:
            if module is not None and module.startswith(_C_LIBRARY):
                continue
            runtime = next((each for each in runtimes if each.library == module), None)
        if runtime is None or module != runtime.library:
            break
        if frame.function.startswith(runtime.requests):
            return Owner.PROGRAM
    return Owner.RUNTIME if runtime is not None else Owner.PROGRAM


def purpose_of_stack(frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]) -> str:
    """What a runtime uses the memory of a stack for.

    The first purpose, in the order of its table, that any function on the stack shows.

    Args:
        frames: Leaf first, of a site that the runtime owns.
        runtimes: All that are known.
    """
    functions = [frame.function for frame in frames]
    for purpose, pattern in (each for runtime in runtimes for each in runtime.purposes):
        if any(pattern.search(function) for function in functions):
            return purpose
    return "other"
