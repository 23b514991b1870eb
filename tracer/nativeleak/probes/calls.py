"""Kinds of allocator calls: one row each, for choosing probes, placing them, attaching them and reading arguments.

Which allocator has which function of which kind is in ``families.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class AllocCall(IntEnum):
    """``enum nl_alloc_call`` in ``bpf/nativeleak.h``: kinds of allocator functions, by arguments and result."""

    NONE = 0
    MALLOC = 1
    CALLOC = 2
    REALLOC = 3
    REALLOCARRAY = 4
    POSIX_MEMALIGN = 5
    ALIGNED_ALLOC = 6
    FREE = 7
    DELETE = 8
    NEW = 9
    HEAP_CALLOC = 10
    HEAP_REALLOC = 11

    @property
    def spec(self) -> CallSpec:
        """The row of this kind.

        Raises:
            KeyError: It is ``NONE``.
        """
        return _SPECS[self]


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One kind of allocator call.

    Attributes:
        call: Its code.
        reads: Arguments that the BPF program reads at the probe, counted from 0; ``requested_size`` and ``enter_call``
            in ``bpf/alloc.bpf.c``.
        frees: It gives a block back and makes none: its return is not probed.
        reallocates: It gives a block back and makes one.
        may_decline: The return of a call that records nothing need not be trapped. Rank among the kinds of which that
            holds, most frequent first; None: its return is always trapped. realloc has none: it gives a block back too.
    """

    call: AllocCall
    reads: tuple[int, ...]
    frees: bool = False
    reallocates: bool = False
    may_decline: int | None = None

    @property
    def name(self) -> str:
        """For people: ``posix_memalign``."""
        return self.call.name.lower()


CALLS: Final = (
    CallSpec(AllocCall.MALLOC, reads=(0,), may_decline=0),
    CallSpec(AllocCall.CALLOC, reads=(0, 1), may_decline=1),
    CallSpec(AllocCall.REALLOC, reads=(0, 1), reallocates=True),
    CallSpec(AllocCall.REALLOCARRAY, reads=(0, 1, 2), reallocates=True),
    CallSpec(AllocCall.POSIX_MEMALIGN, reads=(0, 2), may_decline=4),
    CallSpec(AllocCall.ALIGNED_ALLOC, reads=(1,), may_decline=3),
    CallSpec(AllocCall.FREE, reads=(0,), frees=True),
    CallSpec(AllocCall.DELETE, reads=(0,), frees=True),
    CallSpec(AllocCall.NEW, reads=(0,), may_decline=2),
    CallSpec(AllocCall.HEAP_CALLOC, reads=(1, 2), may_decline=5),
    CallSpec(AllocCall.HEAP_REALLOC, reads=(1, 2), reallocates=True),
)
_SPECS: Final = {spec.call: spec for spec in CALLS}
