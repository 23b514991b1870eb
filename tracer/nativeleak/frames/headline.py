"""Finds in a stack the frame that tells a person most: the program's first above allocators, wrappers and libraries.

Scope: one stack at a time, by names. Where callers fan out above the frame found is for the analysis to see.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nativeleak.frames.display import JAVA, bare
from nativeleak.frames.kinds import rank_of
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.frames.library_table import LIBRARIES, Interpreter
from nativeleak.frames.pools import Pool, pool_of
from nativeleak.frames.roles import THREAD_ROOTS, Role, is_own, is_passing, role
from nativeleak.frames.tables import RuntimeFrames
from nativeleak.frames.words import is_constructor, is_helper, is_wrapper
from nativeleak.model import Frame, FrameKind

_NAMELESS: Final = FrameKind.UNRESOLVED
_OWN: Final = (Role.PROGRAM, Role.UNNAMED)
_Facts = tuple[Role, Interpreter | None, tuple[int, str] | None]


@dataclass(frozen=True, slots=True)
class Headline:
    """What to say of a stack: "X, for Y".

    Attributes:
        index: The frame that allocates on the program's behalf.
        for_index: The first frame for which it does so and which the program's owner can change; None where it is the
            same, or where none is seen.
        what: Kind of memory, None where no name tells.
        pool: A known pool took a chunk here: the frame only filled it.
        note: What the stack does not show, and which tool does; None where nothing is missing.
    """

    index: int
    for_index: int | None = None
    what: str | None = None
    pool: Pool | None = None
    note: str | None = None


def headline(
    frames: Sequence[Frame], runtimes: tuple[RuntimeFrames, ...], libraries: Libraries = BUILT_IN
) -> Headline | None:
    """What to say of a stack; None of an empty one.

    Args:
        frames: Leaf first.
        runtimes: All that are known.
        libraries: The table, and what the user added.
    """
    if not frames:
        return None
    known = _known(runtimes, libraries)
    facts = []
    for frame in frames:
        # The kind's value, not the kind: hashing an enumeration's member takes longer than all the rest.
        key = (frame.function, frame.module, frame.kind.value)
        fact = known.get(key)
        if fact is None:
            fact = known[key] = _facts(frame, runtimes, libraries)
        facts.append(fact)
    roles = _with_nameless_helpers(frames, [fact[0] for fact in facts])
    index = _index(frames, roles, libraries)
    end = index if roles[index] in (Role.PROGRAM, Role.UNNAMED) else index + 1
    return Headline(
        index,
        _for_index(frames, roles, index),
        min((fact[2] for fact in facts[: max(end, 1)] if fact[2] is not None), default=(0, None))[1],
        pool_of(frames, max(end, 1)),
        _note(frames, roles, [fact[1] for fact in facts]),
    )


def headline_frame(
    frames: Sequence[Frame], runtimes: tuple[RuntimeFrames, ...], libraries: Libraries = BUILT_IN
) -> Frame | None:
    """The frame of ``headline``; None of an empty stack."""
    found = headline(frames, runtimes, libraries)
    return None if found is None else frames[found.index]


def _with_nameless_helpers(frames: Sequence[Frame], roles: list[Role]) -> list[Role]:
    """Counts nameless code below a helper of the same object to the helper: static functions of a stripped program."""
    run: list[int] = []
    for i, (frame, each) in enumerate(zip(frames, roles, strict=True)):
        if each is Role.UNNAMED and (not run or frames[run[-1]].module == frame.module):
            run.append(i)
        elif each is Role.ALLOCATOR and run and frames[run[-1]].module == frame.module:
            for nameless in run:
                roles[nameless] = Role.ALLOCATOR
            run = []
        elif each is not Role.ALLOCATOR:
            break
    return roles


def _index(frames: Sequence[Frame], roles: Sequence[Role], libraries: Libraries) -> int:
    """The program's first function; else its helpers, then what is nearest to it of the libraries."""
    named = next((i for i, each in enumerate(roles) if each in _OWN and _is_function(frames[i], each)), None)
    if named is not None:
        return _native_method(frames, roles, named)
    own = [
        i
        for i, (frame, each) in enumerate(zip(frames, roles, strict=True))
        if each in _OWN or (each is not Role.RUNTIME and _is_own_name(frame, libraries))
    ]
    for wanted in (_is_loose_helper, _passes, _helps):
        found = next((i for i in own if wanted(frames[i], roles[i])), None)
        if found is not None:
            return _native_method(frames, roles, found)
    named_libraries = [i for i, each in enumerate(roles) if each is Role.LIBRARY and frames[i].kind is not _NAMELESS]
    telling = [i for i in named_libraries if not is_helper(frames[i].function) and not is_passing(frames[i])]
    beyond_c = [i for i in telling if not _is_of_c(frames[i], libraries)]
    further = [i for i in beyond_c if not _is_base(frames[i], libraries)]
    runtime = [i for i, each in enumerate(roles) if each is Role.RUNTIME and frames[i].kind is not _NAMELESS]
    loops = [
        i
        for i, each in enumerate(roles)
        if each is Role.PASSTHROUGH and frames[i].function not in THREAD_ROOTS and not _is_of_c(frames[i], libraries)
    ]
    nameless = [i for i, each in enumerate(roles) if each is Role.UNNAMED]
    for group in (further, beyond_c, runtime, telling, loops, named_libraries, nameless):
        if group:
            return group[0]
    helpers = [i for i, each in enumerate(roles) if each is Role.ALLOCATOR and frames[i].kind is not _NAMELESS]
    return helpers[-1] if helpers else 0


def _is_function(frame: Frame, frame_role: Role) -> bool:
    if frame_role is Role.UNNAMED:
        return frame.module is not None
    return frame_role is Role.PROGRAM


def _is_loose_helper(frame: Frame, frame_role: Role) -> bool:
    return frame_role is Role.ALLOCATOR and not is_wrapper(frame.function)


def _passes(frame: Frame, frame_role: Role) -> bool:
    return frame_role is Role.PASSTHROUGH and frame.kind is not _NAMELESS


def _helps(frame: Frame, frame_role: Role) -> bool:
    return frame_role is Role.ALLOCATOR and frame.kind is not _NAMELESS


def _is_own_name(frame: Frame, libraries: Libraries) -> bool:
    return frame.kind is not _NAMELESS and is_own(frame, libraries)


def _native_method(frames: Sequence[Frame], roles: Sequence[Role], index: int) -> int:
    """A native method instead of its nameless code: the Java name is the one that people know."""
    if roles[index] is not Role.UNNAMED:
        return index
    above = next((i for i in range(index, len(frames)) if roles[i] is not Role.UNNAMED), None)
    if above is not None and frames[above].kind in JAVA and roles[above] is Role.PROGRAM:
        return above
    return index


def _is_base(frame: Frame, libraries: Libraries) -> bool:
    row = libraries.find(frame)
    return row is not None and row.is_base


def _is_of_c(frame: Frame, libraries: Libraries) -> bool:
    row = libraries.find(frame)
    return row is LIBRARIES[0] or bare(frame.function).startswith("__libc")


def _scope(frame: Frame) -> str:
    """What a method belongs to; empty of a function."""
    if frame.kind in JAVA:
        return frame.function.rpartition(".")[0]
    return bare(frame.function).rpartition("::")[0]


def _for_index(frames: Sequence[Frame], roles: Sequence[Role], index: int) -> int | None:
    """The caller that says more, where the frame found is nameless, foreign, or makes objects for others."""
    head = frames[index]
    program = [i for i in range(index + 1, len(frames)) if roles[i] is Role.PROGRAM]
    scope = _scope(head)
    others = [i for i in program if not scope or _scope(frames[i]) != scope]
    if roles[index] is Role.UNNAMED:
        return next(iter(program), None)
    if roles[index] is not Role.PROGRAM:
        return None
    if head.kind in JAVA:
        if _is_native_method(frames, roles, index):
            return next(iter(others), None)
        if is_loader(frames, index):
            return next((i for i in others if not is_loader(frames, i)), None)
        # A factory method that its own class calls makes objects for that class.
        is_for_others = head.function.endswith(".<init>") or program[:1] == others[:1]
        return next(iter(others), None) if is_constructor(head.function) and is_for_others else None
    java = next((i for i in program if frames[i].kind in JAVA), None)
    if java is not None:
        return java
    if is_constructor(head.function):
        return next((i for i in others if not is_constructor(frames[i].function)), None)
    if _is_shared(head):
        return next((i for i in program if not _is_shared(frames[i])), None)
    return None


def _is_native_method(frames: Sequence[Frame], roles: Sequence[Role], index: int) -> bool:
    """Whether the code right below a Java frame is a native method's of the program: named for JNI, or nameless."""
    if not index:
        return False
    below = frames[index - 1]
    return below.function.startswith("Java_") or (roles[index - 1] is Role.UNNAMED and below.module is not None)


_DEFINES: Final = re.compile(r"java\.lang\.ClassLoader\.(?:defineClass|findClass|loadClass)\w*")
_LOADS: Final = re.compile(r".*\.(?:find|load|define)(?:\w*Class)?(?:es)?")


def is_loader(frames: Sequence[Frame], index: int) -> bool:
    """Whether a Java frame is a class loader's: it defines or finds a class for its caller."""
    below = frames[index - 1].function if index else ""
    return bool(_DEFINES.fullmatch(below) or _LOADS.fullmatch(below)) and bool(_LOADS.fullmatch(frames[index].function))


def _is_shared(frame: Frame) -> bool:
    return frame.module is not None and ".so" in frame.module


_NO_NAMES: Final = "called from {0} code, whose functions are not shown: {1} names them"


def _note(frames: Sequence[Frame], roles: Sequence[Role], interpreters: Sequence[Interpreter | None]) -> str | None:
    found = next((each for each in reversed(interpreters) if each is not None), None)
    if found is None or any(
        each is Role.PROGRAM and frame.module is None for frame, each in zip(frames, roles, strict=True)
    ):
        return None
    return _NO_NAMES.format(found.language, found.tool)


@lru_cache(maxsize=8)
def _known(_runtimes: tuple[RuntimeFrames, ...], _libraries: Libraries) -> dict[tuple[str, str | None, str], _Facts]:
    """What was found out of frames, with these tables."""
    return {}


def _facts(frame: Frame, runtimes: tuple[RuntimeFrames, ...], libraries: Libraries) -> _Facts:
    """The role, the interpreter that the frame belongs to, and the kind of memory that it shows."""
    found = role(frame, runtimes, libraries)
    row = libraries.find(frame) if found in (Role.PASSTHROUGH, Role.LIBRARY) else None
    rank = rank_of(frame.function, [each.kinds for each in runtimes])
    return found, None if row is None else row.interpreter, rank
