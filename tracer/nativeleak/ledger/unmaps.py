"""Callers that unmapped address space: by thread and stack, to the byte.

Scope: only accounting; the interval map knows the pieces. A call is booked when its pieces are removed, which may be at
its entry, and undone as a whole if it fails.

Caveats: all unmapping by allocators is one row, and unmapping by the C library for threads is one row per stack, except
for calls whose stack had no names yet. An allocator is recognised by the event, by its stack, or by the memory, which
was mapped inside its calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from nativeleak.ledger.intervals import Piece
from nativeleak.ledger.map_sites import MapCall
from nativeleak.ledger.mapping_events import Giver
from nativeleak.model import Owner, UnmapTotals

MAX_SITES: Final = 1 << 16
"""Default rows of a target: as many as the kernel has sites by default."""

_OTHERS: Final = (0, 0, Owner.PROGRAM)
_ALLOCATOR: Final = (0, 0, Owner.ALLOCATOR)

_Key = tuple[int, int, Owner]


class _Taken(NamedTuple):
    """Memory that one call unmapped. Sizes in bytes."""

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
        max_sites: Maximum rows; further callers share one row.

    Attributes:
        n_without_row: Calls on the shared row (map full).
    """

    def __init__(self, max_sites: int = MAX_SITES) -> None:
        self.n_without_row = 0
        self._max_sites = max_sites
        self._rows: dict[_Key, _Row] = {}
        self._of_stack: dict[int, list[_Row]] = {}
        self._owner_of_stack: dict[int, Owner] = {}
        self._open: dict[int, tuple[_Row, _Taken, bool]] = {}

    def book(self, tid: int, function: str, giver: Giver, pieces: Iterable[Piece[MapCall]]) -> None:
        """Book a call that removes pieces of the map; it may still fail.

        Args:
            tid: Thread of the call, for ``take_back``.
            pieces: Mapped pieces in its range.
        """
        pieces = list(pieces)
        key = self._key(giver, pieces)
        row = self._rows.get(key)
        has_row = row is not None
        if row is None:
            # The two shared rows are added even if the table is full.
            has_row = len(self._rows) < self._max_sites or key in (_OTHERS, _ALLOCATOR)
            row = self._add(key) if has_row else self._rows.get(_OTHERS) or self._add(_OTHERS)
        if function not in row.functions:
            row.functions += (function,)
        taken = _taken(key[0], pieces)
        row.add(taken)
        self.n_without_row += not has_row
        self._open[tid] = row, taken, has_row

    def settle(self, tid: int) -> None:
        """Confirm the last call of a thread, which has succeeded."""
        self._open.pop(tid, None)

    def take_back(self, tid: int) -> None:
        """Undo the last call of a thread, if it was booked, because it failed."""
        row, taken, has_row = self._open.pop(tid, (None, None, True))
        if row is not None and taken is not None:
            row.add(taken, -1)
            self.n_without_row -= not has_row

    def reclassify_stack(self, stack_key: int, owner: Owner) -> None:
        """Set the owner of a stack's calls, also of future ones."""
        self._owner_of_stack[stack_key] = owner
        for row in self._of_stack.get(stack_key, ()):
            row.owner = owner

    def totals(self, slot: int) -> list[UnmapTotals]:
        """All rows with a successful call.

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
        # Each of a hundred thousand ending threads may unmap another's stack.
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
