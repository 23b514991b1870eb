"""Allocator functions by name, and the kind of call that each is (``calls.py``).

One table for every allocator: glibc, musl, jemalloc, tcmalloc, mimalloc, and programs with their own allocator under
the standard names. Allocators that are built into a program have their names changed: ``_rjem_malloc``,
``arrow_mi_malloc_aligned``. What stands before and after the name is the family's affix. Several names of one address
are probed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from nativeleak.probes.calls import AllocCall, CallSpec

STANDARD: Final[Mapping[str, AllocCall]] = {
    "malloc": AllocCall.MALLOC,
    "calloc": AllocCall.CALLOC,
    "realloc": AllocCall.REALLOC,
    "reallocarray": AllocCall.REALLOCARRAY,
    "posix_memalign": AllocCall.POSIX_MEMALIGN,
    "aligned_alloc": AllocCall.ALIGNED_ALLOC,
    "memalign": AllocCall.ALIGNED_ALLOC,
    "valloc": AllocCall.MALLOC,
    "pvalloc": AllocCall.MALLOC,
    "free": AllocCall.FREE,
    "cfree": AllocCall.FREE,
    "free_sized": AllocCall.FREE,
    "free_aligned_sized": AllocCall.FREE,
}
"""C and POSIX, with what glibc adds."""

_JEMALLOC: Final[Mapping[str, AllocCall]] = {
    "mallocx": AllocCall.MALLOC,
    "rallocx": AllocCall.REALLOC,
    "dallocx": AllocCall.DELETE,
    "sdallocx": AllocCall.DELETE,
}
"""Those that may call free are ``DELETE``. Source: include/jemalloc/jemalloc.h."""

_TCMALLOC: Final[Mapping[str, AllocCall]] = {
    "malloc_skip_new_handler": AllocCall.MALLOC,
    **{f"new{array}{aligned}": AllocCall.NEW for array in ("", "array") for aligned in ("", "_aligned")},
    **{f"new{array}{aligned}_nothrow": AllocCall.MALLOC for array in ("", "array") for aligned in ("", "_aligned")},
    **{
        f"delete{array}{form}": AllocCall.DELETE
        for array in ("", "array")
        for form in ("", "_sized", "_nothrow", "_aligned", "_sized_aligned", "_aligned_nothrow")
    },
}
"""Source: gperftools, src/gperftools/tcmalloc.h."""

_MIMALLOC: Final[Mapping[str, AllocCall]] = {
    **{f"{kind}{form}": AllocCall.MALLOC for kind in ("malloc", "zalloc") for form in ("_small", "_aligned_at")},
    "zalloc": AllocCall.MALLOC,
    "malloc_aligned": AllocCall.MALLOC,
    "zalloc_aligned": AllocCall.MALLOC,
    "mallocn": AllocCall.CALLOC,
    "calloc_aligned": AllocCall.CALLOC,
    "calloc_aligned_at": AllocCall.CALLOC,
    **{
        f"re{kind}{form}": call
        for kind, call in (
            ("alloc", AllocCall.REALLOC),
            ("zalloc", AllocCall.REALLOC),
            ("calloc", AllocCall.REALLOCARRAY),
        )
        for form in ("", "_aligned", "_aligned_at")
        if kind != "alloc" or form
    },
    "reallocf": AllocCall.REALLOC,
    "reallocn": AllocCall.REALLOCARRAY,
    "free_size": AllocCall.DELETE,
    "free_aligned": AllocCall.DELETE,
    "free_size_aligned": AllocCall.DELETE,
    "new_n": AllocCall.CALLOC,
    "new_realloc": AllocCall.REALLOC,
    "new_reallocn": AllocCall.REALLOCARRAY,
    **{f"heap_{name}": AllocCall.ALIGNED_ALLOC for name in ("malloc", "zalloc", "malloc_small", "alloc_new")},
    **{f"heap_{name}_aligned{at}": AllocCall.ALIGNED_ALLOC for name in ("malloc", "zalloc") for at in ("", "_at")},
    **{f"heap_{name}": AllocCall.HEAP_CALLOC for name in ("calloc", "mallocn", "calloc_aligned", "calloc_aligned_at")},
    **{
        f"heap_{name}{form}": AllocCall.HEAP_REALLOC
        for name in ("realloc", "rezalloc")
        for form in ("", "_aligned", "_aligned_at")
    },
    "heap_reallocf": AllocCall.HEAP_REALLOC,
}
"""Source: include/mimalloc.h."""

_TBB: Final[Mapping[str, AllocCall]] = {
    "aligned_malloc": AllocCall.MALLOC,
    "aligned_realloc": AllocCall.REALLOC,
    "aligned_free": AllocCall.DELETE,
}
"""Source: oneTBB, include/oneapi/tbb/scalable_allocator.h."""

STEMS: Final[Mapping[str, AllocCall]] = {**STANDARD, **_JEMALLOC, **_MIMALLOC, **_TCMALLOC, **_TBB}
"""Functions of a family with an affix: ``_rjem_`` + ``mallocx``."""

_NOTHROW: Final = "RKSt9nothrow_t"
_ALIGNED: Final = "St11align_val_t"

OPERATORS: Final[Mapping[str, AllocCall]] = {
    **{f"_Zn{kind}m{aligned}": AllocCall.NEW for kind in "wa" for aligned in ("", _ALIGNED)},
    **{f"_Zn{kind}m{aligned}{_NOTHROW}": AllocCall.MALLOC for kind in "wa" for aligned in ("", _ALIGNED)},
    **{
        f"_Zd{kind}Pv{size}{aligned}": AllocCall.DELETE
        for kind in "la"
        for size in ("", "m")
        for aligned in ("", _ALIGNED)
    },
    **{f"_Zd{kind}Pv{aligned}{_NOTHROW}": AllocCall.DELETE for kind in "la" for aligned in ("", _ALIGNED)},
}
"""C++ new and delete in all forms of the Itanium ABI: probed only in an allocator that defines them itself, since those
of libstdc++ and libc++ call malloc and free."""

_ALLOCATOR_MARKS: Final = ("mallocx", "tc_malloc", "mi_malloc", "je_malloc", "TCMallocInternalMalloc")
PLAIN_NAMES: Final = frozenset({*STANDARD, *_JEMALLOC, *OPERATORS, *_ALLOCATOR_MARKS})
"""Names without an affix."""

_MAKERS: Final = ("malloc", "mallocx", "malloc_aligned", "aligned_malloc")
_FREERS: Final = ("free", "sdallocx", "dallocx", "free_size", "aligned_free")
_PROOFS: Final = (
    *("mallocx", "rallocx", "sdallocx", "mallctl", "malloc_usable_size", "usable_size", "mallinfo"),
    *(
        "mallopt",
        "malloc_stats",
        "malloc_trim",
        "posix_memalign",
        "memalign",
        "malloc_aligned",
        "heap_malloc",
        "aligned_malloc",
    ),
)
"""A family with one of these is an allocator; one without may be a few functions around another allocator."""
_STANDARD_FOUR: Final = ("malloc", "calloc", "realloc", "free")
_NOT_THEIRS: Final = frozenset({"_int_", "__minimal_", "__rtld_", "__libc_", "__interceptor_", "___interceptor_"})
"""Affixes inside of C libraries and sanitizers: other arguments, or second names of the standard functions."""
PARTS: Final = ("alloc", "mall", "free", "memalign", "usable_size")
"""Parts of the names that tell families and prove them."""


class Affix(NamedTuple):
    """What a family has before and after each name: ``_rjem_malloc``, ``malloc_v2``."""

    prefix: str
    suffix: str = ""

    @classmethod
    def parse(cls, text: str) -> Affix:
        """``PREFIX`` or ``PREFIX*SUFFIX``.

        Raises:
            ValueError: It has more than one star, is empty, or has characters that no function's name has.
        """
        prefix, star, suffix = text.partition("*")
        if not (prefix or suffix) or not f"{prefix}{suffix}".replace("_", "a").replace("$", "a").isalnum():
            raise ValueError(f"not PREFIX or PREFIX*SUFFIX: {text!r}")
        del star
        return cls(prefix, suffix)

    def __str__(self) -> str:
        return f"{self.prefix}*{self.suffix}" if self.suffix else self.prefix

    def name(self, stem: str) -> str:
        """A function of the family."""
        return f"{self.prefix}{stem}{self.suffix}"

    def names(self) -> Iterator[str]:
        """All functions that it may have."""
        return (self.name(stem) for stem in STEMS)


class ProbePoint(NamedTuple):
    """One function to probe.

    Attributes:
        function: Its name.
        kind: Meaning of its arguments.
        offset: File offset of its first instruction, bytes.
        may_throw: It is a C++ operator under another name.
        is_known: It is a well-known allocator's (``known.py``).
    """

    function: str
    kind: AllocCall
    offset: int
    may_throw: bool = False
    is_known: bool = False

    @property
    def spec(self) -> CallSpec:
        """The row of its kind."""
        return self.kind.spec

    @property
    def is_operator(self) -> bool:
        """Whether it is a C++ operator, which may throw."""
        return self.may_throw or self.function in OPERATORS


def affixes_of(name: str) -> Iterator[Affix]:
    """Affixes that a function's name may have, shortest prefix first; none for a name of C++ or Rust."""
    if name.startswith(("_Z", "_R")) or not name.isascii() or "." in name:
        return
    for maker in (*_MAKERS, "sdallocx"):
        at = name.find(maker)
        while at >= 0:
            affix = Affix(name[:at], name[at + len(maker) :])
            if affix != Affix("") and affix.prefix not in _NOT_THEIRS:
                yield affix
            at = name.find(maker, at + 1)


def is_allocator(affix: Affix, defined: Iterable[str]) -> bool:
    """Whether a family's functions are an allocator's, by their names.

    Args:
        affix: Of the family.
        defined: Functions that the object defines.
    """
    has = frozenset(defined)
    return is_pair(affix, has) and any(affix.name(stem) in has for stem in _PROOFS)


def is_pair(affix: Affix, defined: Iterable[str]) -> bool:
    """Whether a family has a function that makes blocks and one that frees them."""
    has = frozenset(defined)
    return any(affix.name(stem) in has for stem in _MAKERS) and any(affix.name(stem) in has for stem in _FREERS)


def looks_like_one(affix: Affix, defined: Iterable[str]) -> bool:
    """Whether a family has malloc, calloc, realloc and free: perhaps an allocator, or functions around another."""
    has = frozenset(defined)
    return all(affix.name(stem) in has for stem in _STANDARD_FOUR)


def choose_points(
    offsets: Mapping[str, int], *, makes_own_new: bool = False, is_known: bool = False
) -> list[ProbePoint]:
    """Functions without an affix to probe in an object; empty if it is no allocator.

    Args:
        offsets: Function name -> file offset, of the names in ``PLAIN_NAMES`` that the object defines.
        makes_own_new: Its operator new calls no malloc.
        is_known: It is a well-known allocator.
    """
    if "malloc" not in offsets or "free" not in offsets:
        return []
    tables: list[Mapping[str, AllocCall]] = [STANDARD, _JEMALLOC]
    if makes_own_new or any(mark in offsets for mark in _ALLOCATOR_MARKS):
        tables.append(OPERATORS)
    named = ((name, kind, False) for table in tables for name, kind in table.items())
    return _points(named, offsets, is_known=is_known)


def choose_affixed(affix: Affix, offsets: Mapping[str, int], *, is_known: bool = False) -> list[ProbePoint]:
    """Functions of a family to probe; each that frees may call another one that is probed."""
    named = ((affix.name(stem), _nesting(kind), _may_throw(stem)) for stem, kind in STEMS.items())
    return _points(named, offsets, is_known=is_known)


def _nesting(kind: AllocCall) -> AllocCall:
    return AllocCall.DELETE if kind is AllocCall.FREE else kind


def _may_throw(stem: str) -> bool:
    return stem.startswith(("new", "heap_alloc_new"))


def _points(
    named: Iterable[tuple[str, AllocCall, bool]], offsets: Mapping[str, int], *, is_known: bool
) -> list[ProbePoint]:
    chosen: dict[int, ProbePoint] = {}
    for function, kind, may_throw in named:
        offset = offsets.get(function)
        if offset is not None and offset not in chosen:
            chosen[offset] = ProbePoint(function, kind, offset, may_throw, is_known)
    return list(chosen.values())
