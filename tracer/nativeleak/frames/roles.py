"""The part that a frame has in an allocation: it allocates, passes on, belongs to a library, or is the program's."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from nativeleak.frames.display import JAVA, bare
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.frames.patterns import Pattern
from nativeleak.frames.pools import is_pool
from nativeleak.frames.tables import RuntimeFrames
from nativeleak.frames.words import is_helper
from nativeleak.model import Frame, FrameKind

_CACHED: Final = 1 << 16
_ALLOCATORS: Final = r"""
    (?:__libc_|__GI_|__|_int_|je_|_rjem_|tc_|mi_|do_|x|g_|av_|OPENSSL_|CRYPTO_|l|z|uv__?|sqlite3_?)?
        (?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|valloc|pvalloc|strn?dup|zalloc
          |m(?:un)?map(?:64)?|mremap|s?brk|shm(?:at|dt)|syscall|malloc0|try_malloc)(?:_n|_usable)?
    | operator\ new(?:\[\])?
    | sysmalloc(?:_mmap)? | arena_get2 | new_heap | grow_heap | _mid_memalign | tcache_init | fallback_impl.*
    | (?:__default|__gnu|__libc|_)?_?morecore | ptmalloc_init.* | malloc_consolidate | malloc_hook_ini
    | (?:je_|_rjem_|tcmalloc::|mi_)\S+
    | (?:de|in)flate(?:Init|Copy)\w* | zcalloc
    | std::(?:allocator|allocator_traits|__new_allocator|__allocat\w+|_Vector_base|basic_string::_M_create)\b.*
    | __gnu_cxx::.*allocator.* | std::.*::_M_(?:allocate|realloc)\w*.*
    | __rust_(?:alloc|realloc|alloc_zeroed) | __r[dg]l_\w+ | alloc::(?:alloc|raw_vec)::.* | hashbrown::raw::.*
    | _?Py(?:Mem|Object)_\w*(?:Malloc|Calloc|Realloc) | _PyMem_\w+ | apr_p[c]?alloc | ngx_(?:p[nc]?|c)?alloc
    | _*pthread_create\w* | allocate_stack | create_thread | Java_\w+
    """
"""Functions of native code without templates and arguments; those of runtimes are in their tables."""
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
_PASSING: Final = Pattern(
    r"main|_?_?start|__libc_start\w*|start_thread|thread_start\w*|_*clone3?|_+start_\w*|generic_start_main\w*"
    r"|_init|_dl_init|call_init\w*"
    r"|__libc_csu_init|_dl_start_user|__scrt\w*|__?thread_proxy|_*g_thread_proxy|execute_native_thread_routine"
    r"|coroutine_trampoline|makecontext|__start_context"
    r"|std::(?:thread::_?(?:State|Invoker).*|_*invoke\w*|__invoke\w*|__async\w*::.*|this_thread::.*|call_once.*"
    r"|apply\w*|__apply\w*|visit.*|_Bind.*|reference_wrapper.*)"
    r"|std::(?:rt|sys|panicking|panic|thread|backtrace|sys_common)::.*|core::(?:ops|panic|iter)::.*"
    r"|__rust_begin_short_backtrace|lang_start.*|__rust_try.*"
    r"|(?:.*::)?(?:\{?lambda.*|_FUN|_M_invoke|_M_run|call_once.*)"
    r"|_GLOBAL__sub_I_\w+|_Z\w*static_initialization\w*|__static_initialization_and_destruction\w*"
    r"|runtime\.(?:asmcgocall\w*|cgocall\w*|goexit\w*|main|mcall|systemstack\w*|mstart\w*|rt0_go|goexit0"
    r"|newproc\w*|gcBgMarkWorker)|crosscall\w*|_cgo_\w+|_rt0_\w+"
    r"|(?:.*::)?(?:run_?(?:main|loop|until_\w+|forever|once|one|thread|task|job|worker)?s?(?:_loop|_main)?"
    r"|event_?loop\w*|main_?loop\w*|\w+_(?:main|loop)|dispatch(?:_\w+)?"
    r"|thread_?(?:main|func|function|proc|entry|start|run|routine|body)\w*|worker_?(?:main|thread|loop|entry|run"
    r"|func|proc)\w*|poll_?loop|serve_?forever|entry_?point|callback_trampoline)",
    re.IGNORECASE,
)
_PASSING_JAVA: Final = Pattern(
    r".*\.(?:run|main|(?:event|main|run|poll)?[lL]oop|doFilter(?:Internal)?|lambda\$(?:main|static|new)\$\d+"
    r"|access\$\d+|runWorker|runTask)"
)
_NO_WORDS: Final = (FrameKind.STUB, FrameKind.KERNEL)
_PLT: Final = re.compile(r".*(?:@plt|\.plt(?:\.\w+)?)$|^\.?plt(?:\.|$).*|\[(?:plt|PLT)\].*")


class Role(StrEnum):
    """What a frame is on its stack."""

    ALLOCATOR = "allocator"
    """malloc, operator new, and functions that only fetch memory for their caller."""
    RUNTIME = "runtime"
    """A runtime's own library, such as the JVM's."""
    LIBRARY = "library"
    """A library that is known, or a class library."""
    PASSTHROUGH = "passthrough"
    """Everything passes through it: main, thread starts, loops, executors, interpreters' loops, lambda forms."""
    PROGRAM = "program"
    UNNAMED = "unnamed"
    """Without a symbol, in an object that is no known library's."""


@lru_cache(maxsize=8)
def _allocators(runtimes: tuple[RuntimeFrames, ...]) -> re.Pattern[str]:
    parts = [_ALLOCATORS, *(runtime.allocators for runtime in runtimes if runtime.allocators)]
    return re.compile(" | ".join(parts), re.VERBOSE)


@lru_cache(maxsize=_CACHED)
def is_allocator(function: str, runtimes: tuple[RuntimeFrames, ...]) -> bool:
    """Whether a function only passes on a request for memory, or its return.

    Args:
        function: Its name.
        runtimes: All that are known.
    """
    pattern = _allocators(runtimes)
    return pattern.fullmatch(bare(function)) is not None


def role(frame: Frame, runtimes: tuple[RuntimeFrames, ...], libraries: Libraries = BUILT_IN) -> Role:
    """The role of a frame, from its function, its module and its kind alone.

    Args:
        frame: Any.
        runtimes: All that are known.
        libraries: The table, and what the user added.
    """
    return _role(frame.function, frame.module, frame.kind, runtimes, libraries)


@lru_cache(maxsize=_CACHED)
def _role(
    function: str,
    module: str | None,
    kind: FrameKind,
    runtimes: tuple[RuntimeFrames, ...],
    libraries: Libraries,
) -> Role:
    frame = Frame(function, module, 0, 0, kind)
    if kind in _NO_WORDS or _PLT.match(function):
        return Role.PASSTHROUGH
    of_user = libraries.of_user(frame)
    if kind is FrameKind.UNRESOLVED:
        return _unnamed(frame, runtimes, libraries, of_user)
    if of_user is not None:
        return Role.LIBRARY if of_user else Role.PROGRAM
    if is_allocator(function, runtimes):
        return Role.ALLOCATOR
    runtime = next((each for each in runtimes if each.library == module), None)
    if runtime is not None:
        return Role.RUNTIME
    if any(each.passing is not None and each.passing.fullmatch(function) for each in runtimes):
        return Role.PASSTHROUGH
    if is_pool(function):
        return Role.ALLOCATOR
    return _by_owner(frame, libraries)


def _unnamed(frame: Frame, runtimes: tuple[RuntimeFrames, ...], libraries: Libraries, of_user: bool | None) -> Role:
    if frame.module is not None and any(each.library == frame.module for each in runtimes):
        return Role.RUNTIME
    if of_user is None:
        of_user = frame.module is not None and libraries.find(frame) is not None
    return Role.LIBRARY if of_user else Role.UNNAMED


def _by_owner(frame: Frame, libraries: Libraries) -> Role:
    row = libraries.find(frame)
    if row is not None:
        loops = row.interpreter.loops if row.interpreter is not None else None
        passes = loops is not None and loops.fullmatch(bare(frame.function)) is not None
        return Role.PASSTHROUGH if passes or is_passing(frame) else Role.LIBRARY
    if is_passing(frame):
        return Role.PASSTHROUGH
    return Role.ALLOCATOR if is_helper(frame.function) else Role.PROGRAM


def is_passing(frame: Frame) -> bool:
    """Whether everything passes through a function of that name."""
    if frame.kind in JAVA:
        return _PASSING_JAVA.fullmatch(frame.function) is not None
    return _PASSING.fullmatch(bare(frame.function)) is not None


def is_own(frame: Frame, libraries: Libraries = BUILT_IN) -> bool:
    """Whether a frame's code is no known library's, whatever it does."""
    if frame.kind in _NO_WORDS or frame.function in THREAD_ROOTS:
        return False
    of_user = libraries.of_user(frame)
    return not of_user if of_user is not None else libraries.find(frame) is None
