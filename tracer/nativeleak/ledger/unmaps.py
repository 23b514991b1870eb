"""Who gave address space back: by thread and stack, to the byte.

Scope: accounting only; which pieces of the map a call took away is the interval map's business. A call is booked when
its pieces go, which may be at its entry, and taken back whole where it turns out to have failed.

Caveats: what an allocator gives back is one row, whoever called it, and what the C library does for threads one row a
stack, but for calls whose stack had no names yet. An allocator is told by the event, by its stack, or by what it gives
back: memory that was mapped inside of its calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from nativeleak.ledger.intervals import Piece
from nativeleak.ledger.map_sites import MapCall
from nativeleak.ledger.mapping_events import Giver
from nativeleak.model import Owner, UnmapTotals

MAX_SITES: Final = 1 << 16
"""Rows of a target unless told otherwise: as many as the kernel has sites by default."""

_OTHERS: Final = (0, 0, Owner.PROGRAM)
_ALLOCATOR: Final = (0, 0, Owner.ALLOCATOR)

_Key = tuple[int, int, Owner]


class _Taken(NamedTuple):
    """What one call took away. Sizes in bytes."""

    freed: int
    other_threads: int
    reserved: int
    older: int


class _Row:
    """Sums of one thread and stack; attributes as those of ``UnmapTotals``."""

    __slots__ = ("freed", "functions", "n_calls", "number", "older", "other_threads", "owner", "reserved")

    def __init__(self, number: int, owner: Owner) -> None:
        self.number = number
        self.owner = owner
        self.functions: tuple[str, ...] = ()
        self.n_calls = self.freed = self.other_threads = self.reserved = self.older = 0

    def add(self, taken: _Taken, sign: int = 1) -> None:
        self.n_calls += sign
        self.freed += sign * taken.freed
        self.other_threads += sign * taken.other_threads
        self.reserved += sign * taken.reserved
        self.older += sign * taken.older


class Unmaps:
    """The rows of one target.

    Args:
        max_sites: Rows; calls of any more are booked on one row for all of them.

    Attributes:
        n_without_row: Calls that found no room for a row of their own.
    """

    def __init__(self, max_sites: int = MAX_SITES) -> None:
        self.n_without_row = 0
        self._max_sites = max_sites
        self._rows: dict[_Key, _Row] = {}
        self._of_stack: dict[int, list[_Row]] = {}
        self._owner_of_stack: dict[int, Owner] = {}
        self._open: dict[int, tuple[_Row, _Taken, bool]] = {}

    def book(self, tid: int, function: str, giver: Giver, pieces: Iterable[Piece[MapCall]]) -> None:
        """A call takes pieces of the map away; it may yet fail.

        Args:
            tid: To take it back by: see ``take_back``.
            pieces: What was mapped in its range.
        """
        pieces = list(pieces)
        key = self._key(giver, pieces)
        row = self._rows.get(key)
        has_row = row is not None
        if row is None:
            # The two rows that are for many always find room.
            has_row = len(self._rows) < self._max_sites or key in (_OTHERS, _ALLOCATOR)
            row = self._add(key) if has_row else self._rows.get(_OTHERS) or self._add(_OTHERS)
        if function not in row.functions:
            row.functions += (function,)
        taken = _taken(key[0], pieces)
        row.add(taken)
        self.n_without_row += not has_row
        self._open[tid] = row, taken, has_row

    def settle(self, tid: int) -> None:
        """The last call of a thread has succeeded."""
        self._open.pop(tid, None)

    def take_back(self, tid: int) -> None:
        """The last call of a thread, where it was booked, has failed: it gave nothing back."""
        row, taken, has_row = self._open.pop(tid, (None, None, True))
        if row is not None and taken is not None:
            row.add(taken, -1)
            self.n_without_row -= not has_row

    def reclassify_stack(self, stack_key: int, owner: Owner) -> None:
        """Say on whose behalf a stack gives back, also from now on."""
        self._owner_of_stack[stack_key] = owner
        for row in self._of_stack.get(stack_key, ()):
            row.owner = owner

    def totals(self, slot: int) -> list[UnmapTotals]:
        """All rows at which a call has succeeded.

        Args:
            slot: The target's.
        """
        return [
            UnmapTotals(
                number=row.number,
                slot=slot,
                thread_uid=thread_uid,
                stack_key=stack_key,
                owner=row.owner,
                functions=row.functions,
                n_calls=row.n_calls,
                freed_bytes=row.freed,
                other_threads_bytes=row.other_threads,
                reserved_bytes=row.reserved,
                older_bytes=row.older,
            )
            for (thread_uid, stack_key, _), row in self._rows.items()
            if row.n_calls
        ]

    def _key(self, giver: Giver, pieces: list[Piece[MapCall]]) -> _Key:
        if giver.in_allocator or (pieces and all(call.site.owner is Owner.ALLOCATOR for _, _, call, _ in pieces)):
            return _ALLOCATOR
        owner = self._owner_of_stack.get(giver.stack_key)
        if owner is Owner.ALLOCATOR:
            return _ALLOCATOR
        # Of a hundred thousand threads that end each may unmap another's stack.
        thread_uid = 0 if owner is Owner.C_LIBRARY else giver.thread_uid
        return thread_uid, giver.stack_key, Owner.PROGRAM

    def _add(self, key: _Key) -> _Row:
        _, stack_key, born = key
        row = self._rows[key] = _Row(len(self._rows), self._owner_of_stack.get(stack_key, born))
        if stack_key:
            self._of_stack.setdefault(stack_key, []).append(row)
        return row


def _taken(thread_uid: int, pieces: list[Piece[MapCall]]) -> _Taken:
    freed = other_threads = reserved = older = 0
    for start, end, call, accessible in pieces:
        site, n_bytes = call.site, end - start
        if site.owner is None:
            older += n_bytes
        elif not accessible:
            reserved += n_bytes
        else:
            freed += n_bytes
            if site.site_id.thread_uid != thread_uid:
                other_threads += n_bytes
    return _Taken(freed, other_threads, reserved, older)
