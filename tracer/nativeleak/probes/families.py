"""Allocator functions by name, and what their arguments mean.

One table for every allocator: glibc, musl, jemalloc, tcmalloc, mimalloc, and a program that brings its own under the
standard names. Names that stand for one address are probed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class CallKind(StrEnum):
    """Arguments and result of an allocator function (``enum nl_alloc_call`` in ``bpf/nativeleak.h``)."""

    MALLOC = "malloc"
    CALLOC = "calloc"
    REALLOC = "realloc"
    REALLOCARRAY = "reallocarray"
    POSIX_MEMALIGN = "posix_memalign"
    ALIGNED_ALLOC = "aligned_alloc"
    FREE = "free"
    DELETE = "delete"
    NEW = "new"


STANDARD: Final[Mapping[str, CallKind]] = {
    "malloc": CallKind.MALLOC,
    "calloc": CallKind.CALLOC,
    "realloc": CallKind.REALLOC,
    "reallocarray": CallKind.REALLOCARRAY,
    "posix_memalign": CallKind.POSIX_MEMALIGN,
    "aligned_alloc": CallKind.ALIGNED_ALLOC,
    "memalign": CallKind.ALIGNED_ALLOC,
    "valloc": CallKind.MALLOC,
    "pvalloc": CallKind.MALLOC,
    "free": CallKind.FREE,
    "cfree": CallKind.FREE,
    "free_sized": CallKind.FREE,
    "free_aligned_sized": CallKind.FREE,
}
"""C and POSIX, with what glibc adds."""

OWN_NAMES: Final[Mapping[str, CallKind]] = {
    # jemalloc: include/jemalloc/jemalloc.h
    "mallocx": CallKind.MALLOC,
    "rallocx": CallKind.REALLOC,
    "dallocx": CallKind.FREE,
    "sdallocx": CallKind.FREE,
    # gperftools: src/gperftools/tcmalloc.h
    "tc_malloc": CallKind.MALLOC,
    "tc_calloc": CallKind.CALLOC,
    "tc_realloc": CallKind.REALLOC,
    "tc_memalign": CallKind.ALIGNED_ALLOC,
    "tc_posix_memalign": CallKind.POSIX_MEMALIGN,
    "tc_free": CallKind.FREE,
    "tc_free_sized": CallKind.FREE,
    # mimalloc: include/mimalloc.h
    "mi_malloc": CallKind.MALLOC,
    "mi_zalloc": CallKind.MALLOC,
    "mi_calloc": CallKind.CALLOC,
    "mi_realloc": CallKind.REALLOC,
    "mi_free": CallKind.FREE,
}
"""Names of their own under which allocators offer the same."""

_NOTHROW: Final = "RKSt9nothrow_t"
_ALIGNED: Final = "St11align_val_t"

OPERATORS: Final[Mapping[str, CallKind]] = {
    **{f"_Zn{kind}m{aligned}": CallKind.NEW for kind in "wa" for aligned in ("", _ALIGNED)},
    **{f"_Zn{kind}m{aligned}{_NOTHROW}": CallKind.MALLOC for kind in "wa" for aligned in ("", _ALIGNED)},
    **{
        f"_Zd{kind}Pv{size}{aligned}": CallKind.DELETE
        for kind in "la"
        for size in ("", "m")
        for aligned in ("", _ALIGNED)
    },
    **{f"_Zd{kind}Pv{aligned}{_NOTHROW}": CallKind.DELETE for kind in "la" for aligned in ("", _ALIGNED)},
}
"""C++ new and delete in all forms of the Itanium ABI: probed only in an allocator that defines them itself, since those
of libstdc++ and libc++ call malloc and free."""

_ALLOCATOR_MARKS: Final = ("mallocx", "tc_malloc", "mi_malloc", "je_malloc", "TCMallocInternalMalloc")

ALL_NAMES: Final = frozenset({*STANDARD, *OWN_NAMES, *OPERATORS, *_ALLOCATOR_MARKS})


FREE_KINDS: Final = frozenset({CallKind.FREE, CallKind.DELETE})
"""Calls whose return is not probed."""


class ProbePoint(NamedTuple):
    """One function to probe.

    Attributes:
        function: Its name.
        kind: What its arguments mean.
        offset: Of its first instruction in the file, bytes.
    """

    function: str
    kind: CallKind
    offset: int


def choose_points(offsets: Mapping[str, int]) -> list[ProbePoint]:
    """What to probe in an object that defines these functions; empty when it is no allocator.

    Args:
        offsets: Function name -> file offset, of the names in ``ALL_NAMES`` that the object defines.
    """
    if "malloc" not in offsets or "free" not in offsets:
        return []
    tables: list[Mapping[str, CallKind]] = [STANDARD, OWN_NAMES]
    if any(mark in offsets for mark in _ALLOCATOR_MARKS):
        tables.append(OPERATORS)
    chosen: dict[int, ProbePoint] = {}
    for function, kind in _pairs(tables):
        offset = offsets.get(function)
        if offset is not None and offset not in chosen:
            chosen[offset] = ProbePoint(function, kind, offset)
    return list(chosen.values())


def _pairs(tables: Iterable[Mapping[str, CallKind]]) -> Iterable[tuple[str, CallKind]]:
    for table in tables:
        yield from table.items()
