"""Pointers that are not stored as addresses: what would hold a block that looks lost.

Scope: three forms, looked for among blocks that no address points at, block by block.

* Compressed: 32 bits of an address, shifted by 0, 3 or 4. A real pointer has others near it; a chance hit has none.
  Halves of whole pointers are none: where a library's addresses agreed with the heap's in their lower 32 bits, 11 of
  2,012 lost blocks had company, in one start of 110.
* XORed with a constant: neighbouring words whose upper halves agree and are no address's, all of which become starts
  of such blocks with one and the same constant.
* XORed with the neighbours: lists whose links are previous XOR next. Followed from two blocks that are held.

Other encryptions look like data.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from nativeleak.arrays import distinct_in_place, pick
from nativeleak.heaps.memory import Flags, Places, Words
from nativeleak.holders.graph import Graph
from nativeleak.holders.table import LEFTOVER, Blocks, BlockTable, Bytes
from nativeleak.holders.windows import Reader, Runs

_SHIFTS: Final = (0, 3, 4)
_COMPANY_BYTES: Final = 4096
_MIN_HITS: Final = 4
_TABLE_BITS: Final = 22
_HASH: Final = np.uint32(2654435761)
_LINK_WORDS: Final = 4
_PART: Final = 1 << 20
_RUN: Final = 8
_MAX_RUNS: Final = 4096
_COUNTED: Final = 256
_MAX_CONSTANTS: Final = 1 << 14
_ADDRESS: Final = np.uint64((1 << 47) - 1)
_UPPER: Final = np.uint64(36)


class HiddenSearch:
    """Looks for words that fit blocks.

    Args:
        starts: Of the blocks, in ascending order.
        ends: First addresses behind them.
        mapped: (start, end) of the process's mappings, in address order.
    """

    def __init__(self, starts: Words, ends: Words, mapped: Sequence[tuple[int, int]]) -> None:
        self._starts, self._ends = starts, ends
        self._mapped = np.array([start for start, _ in mapped], np.uint64), np.array([e for _, e in mapped], np.uint64)
        self._fits = np.zeros(len(starts), np.bool_)
        self._hits: dict[int, list[tuple[Words, Places]]] = {shift: [] for shift in _SHIFTS}
        self._keys: dict[int, tuple[Blocks, Blocks]] = {}
        self._runs: list[Words] = []
        self._filter = np.zeros(1 << _TABLE_BITS, np.bool_)
        for shift in _SHIFTS:
            keys = (starts >> np.uint64(shift) & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
            order = np.argsort(keys, kind="stable").astype(np.uint32)
            self._keys[shift] = pick(keys, order), order
            self._filter[_hashed(keys)] = True

    def look(self, runs: Runs) -> None:
        """Look at one window."""
        for address, offset, size in zip(runs.addresses, runs.offsets.tolist(), runs.sizes.tolist(), strict=True):
            data = runs.data[offset : offset + size]
            words = data[: size // 8 * 8].view(np.uint64)
            self._look_for_halves(words, address)
            self._look_for_runs(words)

    def result(self) -> Flags:
        """Which blocks some word fits."""
        for hits in self._hits.values():
            if hits:
                self._take_companies(np.concatenate([each[0] for each in hits]), np.concatenate([e[1] for e in hits]))
        for words in self._runs:
            self._take_constant(words)
        return self._fits

    def _look_for_halves(self, words: Words, address: np.uint64) -> None:
        halves = words.view(np.uint32)
        near = np.flatnonzero(self._filter[_hashed(halves)])
        near = near[~self._are_pointers(words[near // 2])]
        if not len(near):
            return
        values = halves[near]
        for shift, (keys, order) in self._keys.items():
            index = np.clip(np.searchsorted(keys, values), 0, len(keys) - 1)
            is_hit = keys[index] == values
            places = address + np.uint64(4) * near[is_hit].astype(np.uint64)
            blocks = order[index[is_hit]].astype(np.int64)
            # A block that looks lost holds nothing.
            inside = self._block_of(places)
            self._hits[shift].append((places[inside < 0], blocks[inside < 0]))

    def _are_pointers(self, words: Words) -> Flags:
        """Whether each is an address in a mapping, or of its end."""
        lows, highs = self._mapped
        index = np.searchsorted(lows, words, side="right").astype(np.int64) - 1
        return np.asarray((index >= 0) & (words <= highs[np.clip(index, 0, None)]), np.bool_)

    def _take_companies(self, places: Words, blocks: Places) -> None:
        order = np.argsort(places, kind="stable")
        places, blocks = places[order], blocks[order]
        near = (places[1:] - places[:-1] <= np.uint64(_COMPANY_BYTES)) & (blocks[1:] != blocks[:-1])
        has_company = np.zeros(len(places), np.bool_)
        has_company[1:] |= near
        has_company[:-1] |= near
        if has_company.sum() >= _MIN_HITS:
            self._fits[blocks[has_company]] = True

    def _look_for_runs(self, words: Words) -> None:
        """Neighbouring words that differ, with equal upper bits that are no address's."""
        if len(words) < _RUN or len(self._runs) >= _MAX_RUNS:
            return
        upper = words >> _UPPER
        is_same = (upper[1:] == upper[:-1]) & (words[1:] != words[:-1]) & (words[1:] >> np.uint64(47) != 0)
        is_same &= words[1:] >> np.uint64(47) != np.uint64(0x1FFFF)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], is_same, [False])).astype(np.int8)))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if last - first + 1 >= _RUN and len(self._runs) < _MAX_RUNS and not self._is_tagged(words[first]):
                self._runs.append(words[first : last + 1].copy())

    def _is_tagged(self, word: np.uint64) -> bool:
        """Whether it is an address with something in its upper bits."""
        lows, highs = self._mapped
        address = word & _ADDRESS
        index = int(np.searchsorted(lows, address, side="right")) - 1
        return index >= 0 and bool(address < highs[index])

    def _take_constant(self, words: Words) -> None:
        constants = self._starts ^ words[0]
        for word in words[1:_RUN]:
            constants = constants[self._place_of(word ^ constants) >= 0]
        # Blocks at equal distances fit shifted constants too, but fewer of the words.
        n_fitting = np.zeros(len(constants), np.int64)
        for word in words[:_COUNTED]:
            n_fitting += self._place_of(word ^ constants) >= 0
        for constant in constants[n_fitting == n_fitting.max(initial=0)][:_MAX_CONSTANTS].tolist():
            places = self._place_of(words ^ np.uint64(constant))
            self._fits[places[places >= 0]] = True

    def _place_of(self, addresses: Words) -> Places:
        """The block that starts at each address; -1 for none."""
        index = np.clip(np.searchsorted(self._starts, addresses), 0, len(self._starts) - 1)
        return np.where(self._starts[index] == addresses, index, -1)

    def _block_of(self, addresses: Words) -> Places:
        index = np.searchsorted(self._starts, addresses, side="right").astype(np.int64) - 1
        return np.where((index >= 0) & (addresses < self._ends[np.clip(index, 0, None)]), index, -1)


def _hashed(halves: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.asarray(halves * _HASH >> np.uint32(32 - _TABLE_BITS), np.uint32)


def find_compressed(
    reader: Reader,
    ranges: Iterable[tuple[int, int]],
    starts: Words,
    ends: Words,
    mapped: Sequence[tuple[int, int]],
) -> Flags:
    """Which blocks fit words of these ranges, compressed or XORed with a constant; see ``HiddenSearch``."""
    search = HiddenSearch(starts, ends, mapped)
    for runs in reader.windows(ranges):
        search.look(runs)
    return search.result()


def find_xor_lists(
    table: BlockTable, graph: Graph, marks: Bytes, reader: Reader, starts: Words, deadline: float
) -> Flags:
    """Which blocks are reached by following lists whose links are previous XOR next.

    Args:
        table: All blocks.
        graph: Pointers between them.
        marks: Of each block, whether it is held.
        reader: Of the process.
        starts: Of the blocks in question, in ascending order.
        deadline: By time.monotonic(); where a list is longer, its further blocks count as not reached.
    """
    found = np.zeros(len(starts), np.bool_)
    if not len(starts):
        return found
    previous, current = _seeds(table, graph, marks, starts)
    while len(previous) and time.monotonic() < deadline:
        words = reader.words(current, _LINK_WORDS) ^ previous[:, None]
        index = np.clip(np.searchsorted(starts, words), 0, len(starts) - 1)
        rows, columns = np.nonzero(starts[index] == words)
        places = index[rows, columns]
        places, first = np.unique(places, return_index=True)
        is_new = ~found[places]
        found[places] = True
        previous, current = current[rows[first]][is_new], starts[places[is_new]]
    return found


def _seeds(table: BlockTable, graph: Graph, marks: Bytes, starts: Words) -> tuple[Words, Words]:
    """Pairs of neighbours in lists: held blocks that point at a held one of the same size, which lost ones have too."""
    sizes = table.sizes
    wanted = distinct_in_place(sizes[np.clip(table.look(starts), 0, None)])
    previous, current = [], []
    for low in range(0, graph.n_edges, _PART):
        targets = np.asarray(graph.targets[low : low + _PART]) & np.uint32(LEFTOVER - 1)
        index = np.flatnonzero(np.isin(sizes[targets], wanted) & (marks[targets] == 1))
        sources = np.searchsorted(graph.offsets, low + index, side="right") - 1
        same = (sizes[sources] == sizes[targets[index]]) & (marks[sources] == 1)
        previous.append(table.starts[sources[same]])
        current.append(table.starts[targets[index[same]]])
        graph.rest_if_large()
    nothing = [np.zeros(0, np.uint64)]
    return np.concatenate(previous or nothing), np.concatenate(current or nothing)
