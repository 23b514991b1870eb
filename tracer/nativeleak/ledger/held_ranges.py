"""Ranges whose unmapping has begun and may still fail, by thread.

Scope: munmap and mremap remove their pages at entry, because another thread may get the same addresses at once. The
pieces are kept here until the thread's next event shows whether the call succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nativeleak.ledger.intervals import IntervalMap, Piece
from nativeleak.ledger.map_sites import MapCall

MapPiece = Piece[MapCall]
_HeldPiece = Piece[tuple[int, MapCall]]


class HeldRanges:
    """Pieces of the last removal of each thread. No address is held twice: it would be mapped in between."""

    def __init__(self) -> None:
        self._by_address: IntervalMap[tuple[int, MapCall]] = IntervalMap()
        self._by_thread: dict[int, list[MapPiece]] = {}

    def __contains__(self, tid: int) -> bool:
        return tid in self._by_thread

    def clear(self) -> None:
        """Make all removals final; the pieces of each thread remain known."""
        self._by_address.clear()

    def hold(self, tid: int, pieces: list[MapPiece]) -> None:
        """Keep the pieces of a thread's removal; its previous removal must be settled."""
        self._by_thread[tid] = pieces
        if pieces:
            held = [(start, end, (tid, call), accessible) for start, end, call, accessible in pieces]
            self._put_back(self._by_address.splice(pieces[0][0], pieces[-1][1], held))

    def taken_by(self, tid: int) -> list[MapPiece]:
        """Pieces of the last removal of a thread, also where other mappings have replaced them."""
        return self._by_thread.get(tid, [])

    def supersede(self, start: int, end: int) -> None:
        """Drop held pieces in a range, because a new mapping replaces them."""
        if self._by_thread:
            self._by_address.splice(start, end)

    def release(self, tid: int) -> Sequence[MapPiece]:
        """Release a thread's pieces; returns those that no mapping has replaced."""
        pieces = self._by_thread.pop(tid, None)
        if not pieces:
            return ()
        taken = self._by_address.splice(pieces[0][0], pieces[-1][1])
        self._put_back(piece for piece in taken if piece[2][0] != tid)
        return [(start, end, call, accessible) for start, end, (holder, call), accessible in taken if holder == tid]

    def calls(self) -> set[MapCall]:
        """Calls with held pieces."""
        return {call for _, _, (_, call), _ in self._by_address}

    def _put_back(self, pieces: Iterable[_HeldPiece]) -> None:
        """Pieces of other threads between those of one thread."""
        for piece in pieces:
            self._by_address.splice(piece[0], piece[1], [piece])
