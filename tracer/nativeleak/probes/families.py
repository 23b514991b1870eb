"""Allocator functions by name, and the kind of call that each is (``calls.py``).

One table for every allocator: glibc, musl, jemalloc, tcmalloc, mimalloc, and programs with their own allocator under
the standard names. Several names of one address are probed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

OWN_NAMES: Final[Mapping[str, AllocCall]] = {
    # jemalloc: include/jemalloc/jemalloc.h
    "mallocx": AllocCall.MALLOC,
    "rallocx": AllocCall.REALLOC,
    "dallocx": AllocCall.FREE,
    "sdallocx": AllocCall.FREE,
    # gperftools: src/gperftools/tcmalloc.h
    "tc_malloc": AllocCall.MALLOC,
    "tc_calloc": AllocCall.CALLOC,
    "tc_realloc": AllocCall.REALLOC,
    "tc_memalign": AllocCall.ALIGNED_ALLOC,
    "tc_posix_memalign": AllocCall.POSIX_MEMALIGN,
    "tc_free": AllocCall.FREE,
    "tc_free_sized": AllocCall.FREE,
    # mimalloc: include/mimalloc.h
    "mi_malloc": AllocCall.MALLOC,
    "mi_zalloc": AllocCall.MALLOC,
    "mi_calloc": AllocCall.CALLOC,
    "mi_realloc": AllocCall.REALLOC,
    "mi_free": AllocCall.FREE,
}
"""Names under which allocators offer the same functions."""

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

ALL_NAMES: Final = frozenset({*STANDARD, *OWN_NAMES, *OPERATORS, *_ALLOCATOR_MARKS})


class ProbePoint(NamedTuple):
    """One function to probe.

    Attributes:
        function: Its name.
        kind: Meaning of its arguments.
        offset: File offset of its first instruction, bytes.
    """

    function: str
    kind: AllocCall
    offset: int

    @property
    def spec(self) -> CallSpec:
        """The row of its kind."""
        return self.kind.spec


def choose_points(offsets: Mapping[str, int]) -> list[ProbePoint]:
    """Functions to probe in an object; empty if it is no allocator.

    Args:
        offsets: Function name -> file offset, of the names in ``ALL_NAMES`` that the object defines.
    """
    if "malloc" not in offsets or "free" not in offsets:
        return []
    tables: list[Mapping[str, AllocCall]] = [STANDARD, OWN_NAMES]
    if any(mark in offsets for mark in _ALLOCATOR_MARKS):
        tables.append(OPERATORS)
    chosen: dict[int, ProbePoint] = {}
    for function, kind in _pairs(tables):
        offset = offsets.get(function)
        if offset is not None and offset not in chosen:
            chosen[offset] = ProbePoint(function, kind, offset)
    return list(chosen.values())


def _pairs(tables: Iterable[Mapping[str, AllocCall]]) -> Iterable[tuple[str, AllocCall]]:
    for table in tables:
        yield from table.items()
