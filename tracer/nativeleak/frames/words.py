"""What the words of a function's name say of it: a helper that only fetches memory, or one that makes an object."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from nativeleak.frames.display import bare

_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_ALLOCATING: Final = re.compile(
    r"(?:m|c|re|z|p|k|x|e|pe|v|n|f|s|d|my|tc|do){0,3}alloc(?:ate[dn]?|ates|ator|ation|f|or|a|n|z)?"
    r"|[a-z]{0,2}reallocarray|memalign|[a-z]?(?:mem|str|strn|wcs)dup|dup|sbrk|morecore"
)
"""Words that say memory wherever they stand first or last."""
_SIZING: Final = frozenset({"grow", "reserve", "enlarge", "regrow", "rehash", "rebin"})
_RESIZING: Final = frozenset({"resize", "expand", "ensure", "extend", "increase", "double"})
_SIZES: Final = frozenset(
    {
        "capacity",
        "size",
        "space",
        "room",
        "buf",
        "buffer",
        "array",
        "table",
        "heap",
        "storage",
        "vector",
        "mem",
        "memory",
    }
)
_MAKING: Final = frozenset(
    {"new", "make", "create", "get", "take", "acquire", "obtain", "borrow", "fill", "refill", "init"}
)
_SLABS: Final = frozenset({"node", "cell", "slab", "slot", "freelist", "pool", "arena", "memory", "mem", "block"})
_CONSTRUCTING: Final = frozenset({"new", "create", "make", "construct", "clone", "copy", "init", "open", "build"})
_PLAIN: Final = frozenset(
    {
        "safe",
        "array",
        "aligned",
        "zeroed",
        "zero",
        "checked",
        "memory",
        "buffer",
        "internal",
        "impl",
        "bytes",
        "fail",
        "abort",
        "util",
        "utils",
    }
    | {
        "wrap",
        "wrapper",
        "wrapped",
        "string",
        "block",
        "chunk",
        "pool",
        "arena",
        "default",
        "debug",
        "custom",
        "usable",
        "generic",
        "heap",
    }
)
_SHORT: Final = 4


@lru_cache(1 << 16)
def words(function: str) -> tuple[str, ...]:
    """The words of a function's own name, in lower case: ``new, node`` of ``List::newNode``."""
    own = re.split(r"::|\.(?=[\w<$]+$)", bare(function))[-1]
    return tuple(word.lower() for word in _WORD.findall(own))


@lru_cache(1 << 16)
def is_helper(function: str) -> bool:
    """Whether the name says that the function fetches memory for whoever calls it.

    ``xmalloc``, ``buf_grow``, ``new_node``, ``pool_get``, ``reserve``, ``strdup_checked``; not ``session_new``.
    """
    parts = words(function)
    if not parts:
        return False
    core = list(parts)
    while len(core) > 1 and core[-1] in _PLAIN:
        core.pop()
    if _ALLOCATING.fullmatch(core[-1]):
        return True
    ends = {parts[0], parts[-1], *parts[1:2], *parts[-2:-1]} if len(parts) > 3 else set(parts)
    if any(_ALLOCATING.fullmatch(part) for part in ends) or ends & _SIZING:
        return True
    present = set(parts)
    if present & _RESIZING and (len(parts) == 1 or present & _SIZES):
        return True
    return bool(
        len(parts) <= 3 and present & _MAKING and present & _SLABS and not present - _MAKING - _SLABS - {"from", "a"}
    )


@lru_cache(1 << 16)
def is_wrapper(function: str) -> bool:
    """Whether a helper's name says nothing but memory: ``xmalloc``, ``safe_realloc_array``; not ``alloc_session``."""
    parts = words(function)
    if not any(_ALLOCATING.fullmatch(part) for part in parts):
        return False
    return (len(parts) <= 2 and len(parts[0]) <= _SHORT) or all(
        part in _PLAIN or len(part) < _SHORT or _ALLOCATING.fullmatch(part) for part in parts
    )


@lru_cache(1 << 16)
def is_constructor(function: str) -> bool:
    """Whether the name says that the function makes an object for whoever calls it: ``session_new``, ``Foo::Foo``."""
    scopes = bare(function).split("::")
    if len(scopes) > 1 and scopes[-1] == scopes[-2]:
        return True
    if bare(function).endswith("<init>"):
        return True
    parts = words(function)
    return bool(parts) and (parts[0] in _CONSTRUCTING or parts[-1] in _CONSTRUCTING)
