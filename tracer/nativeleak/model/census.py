"""How much of a heap was in use before and after a trace, by walks of the heap itself."""

from __future__ import annotations

from typing import NamedTuple


class InUse(NamedTuple):
    """Blocks in use at one moment.

    Attributes:
        n_blocks: How many.
        n_bytes: Their sizes with the allocator's own headers.
        unread_bytes: Of the allocator's memory, what the walk could not read as blocks.
    """

    n_blocks: int
    n_bytes: int
    unread_bytes: int


class HeapCensus(NamedTuple):
    """Two walks of one target's heap.

    Attributes:
        slot: The target.
        before: Before the probes were there.
        after: After they were gone.
        why_not: Why there are not both; empty where there are.
        before_at: When the first one ended, Unix time.
        after_at: When the second one began.
    """

    slot: int
    before: InUse | None = None
    after: InUse | None = None
    why_not: str = ""
    before_at: float = 0.0
    after_at: float = 0.0
