"""On whose behalf memory was taken or given back, read from the names on a stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.frames.display import JAVA, bare
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.frames.roles import THREAD_ROOTS, Role, is_allocator, role
from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, Owner

_C_LIBRARY: Final = ("libc.", "libc-", "ld-", "libpthread")
"""Beginnings of the names of its files."""
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

    A runtime's own memory is what its library asked for without the program's asking: its threads did, or a chore of
    its own, whoever's call made it begin. Room for generated code is always its own. Where the program's code called
    the library, the program asked.

    Args:
        frames: Leaf first.
        runtimes: All that are known.
    """
    runtime, inside, outside = _parts(frames, runtimes)
    if runtime is None:
        return Owner.PROGRAM
    names = [bare(frame.function) for frame in inside]
    if runtime.own is not None and any(map(runtime.own.match, names)):
        return Owner.RUNTIME
    if any(pattern.match(name) for _, pattern in runtime.requests for name in names if _DIRECT.match(name)):
        return Owner.PROGRAM
    if runtime.chores is not None and any(map(runtime.chores.match, names)):
        return Owner.RUNTIME
    return Owner.PROGRAM if _is_callers(outside, runtime) else Owner.RUNTIME


_DIRECT: Final = re.compile(r"(?!.*::)")
"""Functions that only the program's code calls; a method of a class of the library serves the library as well."""


def _parts(
    frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]
) -> tuple[RuntimeFrames | None, Sequence[Frame], Sequence[Frame]]:
    """The runtime whose library called the C library, its frames there, and those that called it."""
    start = next((i for i, frame in enumerate(frames) if not _is_c_library(frame)), len(frames))
    module = frames[start].module if start < len(frames) else None
    runtime = next((each for each in runtimes if each.library == module), None)
    if runtime is None:
        return None, (), frames
    end = next((i for i in range(start, len(frames)) if frames[i].module != module), len(frames))
    return runtime, frames[start:end], frames[end:]


def _is_c_library(frame: Frame) -> bool:
    return frame.module is not None and frame.module.startswith(_C_LIBRARY)


def _is_callers(outside: Sequence[Frame], runtime: RuntimeFrames) -> bool:
    """Whether the code that called a runtime's library is the program's: no start of a thread, and no launcher."""
    if not outside:
        return False
    first = outside[0]
    if _is_c_library(first) or first.function in THREAD_ROOTS:
        return False
    return first.module is None or not first.module.startswith(runtime.launchers)


def request_of_stack(frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]) -> str | None:
    """What the program asked a runtime for: ``JNI string``; None where it asked for nothing that is known.

    Args:
        frames: Leaf first, of a site that the program owns.
        runtimes: All that are known.
    """
    runtime, inside, _ = _parts(frames, runtimes)
    if runtime is None:
        return None
    names = [bare(frame.function) for frame in inside]
    return next((kind for kind, pattern in runtime.requests if any(map(pattern.match, names))), None)


def purpose_of_stack(frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]) -> str:
    """What a runtime uses the memory of a stack for: the nearest function that shows a purpose decides.

    Where this is no place of its own, such as a code cache, the work that was under way counts first: what a compiler
    asks for is the compiler's.

    Args:
        frames: Leaf first, of a site that the runtime owns.
        runtimes: All that are known.
    """
    nearest = _nearest_purpose(frames, runtimes)
    if any(nearest in runtime.places for runtime in runtimes):
        return nearest
    names = [bare(frame.function) for frame in frames]
    works = [each for runtime in runtimes for each in runtime.works]
    return next((work for work, pattern in works if any(map(pattern.match, names))), nearest)


def loading_of_stack(
    frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames], libraries: Libraries = BUILT_IN
) -> str | None:
    """What is done here once for a piece of code, at its first use; None where the program asked, or for another thing.

    The frames up to the program's nearest one are looked at; those of a runtime's library only below all managed code,
    because further out they show why that code runs.

    Args:
        frames: Leaf first, of a site whose memory a runtime's library took.
        runtimes: All that are known.
        libraries: The table, and what the user added.
    """
    tables = tuple(runtimes)
    is_below = True
    tuned: RuntimeFrames | None = None
    for frame in frames:
        if role(frame, tables, libraries) in (Role.PROGRAM, Role.UNNAMED):
            return None
        is_below = is_below and frame.kind not in JAVA
        if not is_below and any(each.library == frame.module for each in tables):
            continue
        name = bare(frame.function)
        for work, pattern in (each for runtime in tables for each in runtime.loading):
            if pattern.match(name):
                return work
        for runtime in tables:
            if runtime.tuning is not None and runtime.tuning[0].match(name):
                tuned = runtime
        if tuned is not None and tuned.tuning is not None and tuned.tuning[1].match(name):
            return tuned.loading[-1][0]
        if not is_below and _MADE_LOADER.match(name):
            return None
    return None


_MADE_LOADER: Final = re.compile(r"java\.net\.\w*ClassLoader\.|java\.lang\.invoke\.MethodHandles\$Lookup\.define")


def _nearest_purpose(frames: Sequence[Frame], runtimes: Sequence[RuntimeFrames]) -> str:
    tables = tuple(runtimes)
    for frame in frames:
        name = bare(frame.function)
        passes = is_allocator(frame.function, tables)
        for purpose, pattern in (each for runtime in runtimes for each in runtime.purposes):
            if pattern.match(name) and (not passes or purpose in _BELOW):
                return purpose
    return "other"


_BELOW: Final = frozenset({"Java heap", "thread stacks"})
"""Purposes that functions below the allocators' show."""
