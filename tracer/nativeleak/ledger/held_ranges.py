"""Ranges whose unmapping has begun and may still fail, by thread.

Scope: munmap and mremap take their pages away at entry, so that another thread can be given the same addresses; the
pieces are kept here until the thread's next event tells that the call has succeeded, or that it has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nativeleak.ledger.intervals import IntervalMap, Piece
from nativeleak.ledger.map_sites import MapCall

MapPiece = Piece[MapCall]
_HeldPiece = Piece[tuple[int, MapCall]]


class HeldRanges:
    """What the last removal of each thread took. No address is held twice: it would have to be mapped in between."""

    def __init__(self) -> None:
        self._by_address: IntervalMap[tuple[int, MapCall]] = IntervalMap()
        self._by_thread: dict[int, list[MapPiece]] = {}

    def __contains__(self, tid: int) -> bool:
        return tid in self._by_thread

    def clear(self) -> None:
        """Nothing can be put back any more; what each thread took remains known."""
        self._by_address.clear()

    def hold(self, tid: int, pieces: list[MapPiece]) -> None:
        """Keep what a removal of this thread took; the one before it must be settled."""
        self._by_thread[tid] = pieces
        if pieces:
            held = [(start, end, (tid, call), accessible) for start, end, call, accessible in pieces]
            self._put_back(self._by_address.splice(pieces[0][0], pieces[-1][1], held))

    def taken_by(self, tid: int) -> list[MapPiece]:
        """What the last removal of a thread took, also where others have taken the place since."""
        return self._by_thread.get(tid, [])

    def supersede(self, start: int, end: int) -> None:
        """A mapping takes the place: what was held there is gone for good."""
        if self._by_thread:
            self._by_address.splice(start, end)

    def release(self, tid: int) -> Sequence[MapPiece]:
        """End what a thread holds; the pieces of which nothing has taken the place."""
        pieces = self._by_thread.pop(tid, None)
        if not pieces:
            return ()
        taken = self._by_address.splice(pieces[0][0], pieces[-1][1])
        self._put_back(piece for piece in taken if piece[2][0] != tid)
        return [(start, end, call, accessible) for start, end, (holder, call), accessible in taken if holder == tid]

    def calls(self) -> set[MapCall]:
        """Calls of which something is held."""
        return {call for _, _, (_, call), _ in self._by_address}

    def _put_back(self, pieces: Iterable[_HeldPiece]) -> None:
        """Other threads' pieces that lie between those of one thread."""
        for piece in pieces:
            self._by_address.splice(piece[0], piece[1], [piece])
