"""One look at a process: every pointer into a block, from blocks and from everywhere else.

Scope: a scan sees memory that moves. A pointer that is moved during the scan, from memory that is still to be read to
memory that was read already, is missed: only what several scans agree on is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from nativeleak.arrays import GrowingColumn, distinct_in_place, parts
from nativeleak.heaps.memory import WORD_BYTES, Flags, HeapMemory, Places, Words
from nativeleak.holders.graph import EdgeStore, Graph
from nativeleak.holders.helper import Helper, sees
from nativeleak.holders.labels import Label, Labels
from nativeleak.holders.places import KERNEL, REGISTERS, STACK, Place, Thread
from nativeleak.holders.table import INTERIOR, LINK, Blocks, BlockTable, Bytes
from nativeleak.holders.threads import KernelWord
from nativeleak.holders.windows import Reader

_ADDRESS: Final = np.uint64((1 << 48) - 1)
_GAP_BYTES: Final = 64 << 10
_RANGE_BYTES: Final = 1 << 30
_BLOCK_SHIFT: Final = 2
_LABEL_SHIFT: Final = 33
_Number = TypeVar("_Number", bound=np.integer)


class EdgeSource(Protocol):
    """Somebody who knows pointers into blocks that are found otherwise than by reading words: a managed heap.

    Attributes:
        ranges: (start, end) of memory that is not to be read word by word, because this source covers it.
        kind: Of places in which this source names the holders: their own words only count for other blocks. Else one
            pointer would be two holders, and no block would be held by one of them alone.
    """

    ranges: Sequence[tuple[int, int]]
    kind: str

    def edges(self) -> Iterator[tuple[Label, Words]]:
        """A holder, and the addresses that it points at; asked once a scan."""
        ...


@dataclass(slots=True)
class Limits:
    """When to end early.

    Attributes:
        deadline: By time.monotonic().
        max_bytes: To be read in all.
        say: Takes (bytes read in this scan, bytes to read in it); for progress.
    """

    deadline: float
    max_bytes: int
    say: Callable[[int, int], None] = lambda _done, _all: None

    def is_over(self, n_bytes: int) -> bool:
        """Whether time or bytes are used up."""
        return time.monotonic() > self.deadline or n_bytes > self.max_bytes


@dataclass(frozen=True, slots=True)
class RootList:
    """Blocks that something outside of the allocators points at, each pair of holder and block once.

    Attributes:
        keys: Number of the holder in 31 bits, of the block in 31 bits, and ``INTERIOR`` and ``LINK``; ascending.
    """

    keys: Words

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def labels(self) -> Blocks:
        """Number of each holder; a new array."""
        return self._column(_LABEL_SHIFT, 31, np.uint32)

    @property
    def blocks(self) -> Blocks:
        """Number of each block; a new array."""
        return self._column(_BLOCK_SHIFT, 31, np.uint32)

    @property
    def flags(self) -> Bytes:
        """``INTERIOR``, ``LINK`` of each; a new array."""
        return self._column(0, 2, np.uint8)

    def _column(self, shift: int, n_bits: int, dtype: type[_Number]) -> npt.NDArray[_Number]:
        found = np.empty(len(self.keys), dtype)
        for part in parts(len(found)):
            found[part] = self.keys[part] >> np.uint64(shift) & np.uint64((1 << n_bits) - 1)
        return found


@dataclass(slots=True)
class Scan:
    """What one look found.

    Attributes:
        table: The blocks.
        graph: Pointers from block to block.
        roots: From everywhere else.
        first_words: First word of each block; 0 where it was not read.
        is_complete: All was read that is to be read.
        n_bytes: Read.
        n_missed_bytes: Gone when they were to be read.
        seconds: How long it took.
    """

    table: BlockTable
    graph: Graph
    roots: RootList
    first_words: Words
    is_complete: bool
    n_bytes: int
    n_missed_bytes: int
    seconds: float


@dataclass(slots=True)
class _Roots:
    keys: GrowingColumn[np.uint64] = field(default_factory=lambda: GrowingColumn(np.uint64))

    def add(self, labels: Blocks, blocks: Blocks, flags: Bytes) -> None:
        keys = labels.astype(np.uint64) << np.uint64(_LABEL_SHIFT) | blocks.astype(np.uint64) << np.uint64(_BLOCK_SHIFT)
        keys |= flags.astype(np.uint64)
        self.keys.add(distinct_in_place(keys))

    def take(self) -> RootList:
        """All of them; there are none afterwards."""
        return RootList(distinct_in_place(self.keys.take()))


class Scanner:
    """Scans one process.

    Args:
        memory: Of the process.
        labels: Names of holders, kept from scan to scan.
        helper: The inner loops.
        sources: Other sources of edges.

    Attributes:
        reader: Of the process.
        step: Bytes between places of pointers, for the next scan: 8, or less for packed structures.
    """

    def __init__(self, memory: HeapMemory, labels: Labels, helper: Helper, sources: Sequence[EdgeSource] = ()) -> None:
        self._memory = memory
        self._labels = labels
        self._helper = helper
        self.step = WORD_BYTES
        self._sources = sources
        self.reader = Reader(memory.pid)

    def scan(
        self,
        table: BlockTable,
        places: Sequence[Place],
        threads: Sequence[Thread],
        kernel_words: Sequence[KernelWord],
        limits: Limits,
    ) -> Scan:
        """Read everything once; stacks first, since they move most."""
        began, read_before, missed_before = time.monotonic(), self.reader.n_bytes, self.reader.n_missed_bytes
        ranges = _live_ranges(table)
        to_read = sum(end - start for start, end in ranges)
        roots = _Roots()
        self._add_words(table, threads, kernel_words, roots)
        named = {source.kind: self._add_source(table, source, roots) for source in self._sources}
        is_complete = True
        for place in sorted(places, key=lambda place: place.kind != STACK):
            is_complete = is_complete and self._read_place(table, place, named.get(place.kind), roots, limits)
        store = EdgeStore(len(table))
        first_words = np.zeros(len(table), np.uint64)
        seen = sees(table)
        for runs in self.reader.windows(self._present(ranges), self.step):
            store.add(*self._helper.edges(table, runs, seen))
            _take_first_words(table, runs.data, runs.addresses, runs.offsets.tolist(), runs.sizes, first_words)
            limits.say(self.reader.n_bytes - read_before, max(to_read, self.reader.n_bytes - read_before))
            if limits.is_over(self.reader.n_bytes):
                is_complete = False
                break
        del seen
        return Scan(
            table=table,
            graph=store.graph(),
            roots=roots.take(),
            first_words=first_words,
            is_complete=is_complete,
            n_bytes=self.reader.n_bytes - read_before,
            n_missed_bytes=self.reader.n_missed_bytes - missed_before,
            seconds=time.monotonic() - began,
        )

    def ranges(self, table: BlockTable, places: Sequence[Place]) -> Iterator[tuple[int, int]]:
        """Everything that a scan reads."""
        for place in places:
            yield from self._present([(place.start, place.end)], skips_files=place.skips_files)
        yield from self._present(_live_ranges(table))

    def _read_place(
        self, table: BlockTable, place: Place, is_named: Flags | None, roots: _Roots, limits: Limits
    ) -> bool:
        """Take the pointers of a place to blocks that are not named; whether all of it was read."""
        if limits.is_over(self.reader.n_bytes):
            return False
        present = self._present([(place.start, place.end)], skips_files=place.skips_files)
        for runs in self.reader.windows(present, self.step):
            addresses, blocks, flags = self._helper.roots(table, runs)
            if is_named is not None:
                is_other = ~is_named[blocks]
                addresses, blocks, flags = addresses[is_other], blocks[is_other], flags[is_other]
            if len(addresses):
                roots.add(self._labels.of(place, addresses), blocks, flags)
            if limits.is_over(self.reader.n_bytes):
                return False
        return True

    def _present(self, ranges: Sequence[tuple[int, int]], *, skips_files: bool = False) -> Iterator[tuple[int, int]]:
        """Resident parts of ranges, without more than what was asked for."""
        for start, end in ranges:
            for part in range(start, end, _RANGE_BYTES):
                stop = min(end, part + _RANGE_BYTES)
                for low, high in self._memory.present_runs(part, stop, skips_files=skips_files):
                    if min(high, stop) > max(low, part):
                        yield max(low, part), min(high, stop)

    def _add_words(
        self, table: BlockTable, threads: Sequence[Thread], kernel_words: Sequence[KernelWord], roots: _Roots
    ) -> None:
        for thread in threads:
            self._add_addresses(
                table, Label(REGISTERS, f"registers of thread {thread.name}"), np.array(thread.words, np.uint64), roots
            )
        for word in kernel_words:
            self._add_addresses(table, Label(KERNEL, word.holder), np.array([word.value], np.uint64), roots)

    def _add_source(self, table: BlockTable, source: EdgeSource, roots: _Roots) -> Flags:
        """Whether each block is pointed at from there."""
        is_named = np.zeros(len(table), np.bool_)
        for label, addresses in source.edges():
            for blocks in self._add_addresses(table, label, addresses, roots):
                is_named[blocks] = True
        return is_named

    def _add_addresses(self, table: BlockTable, label: Label, addresses: Words, roots: _Roots) -> list[Blocks]:
        """The blocks that they lie in, some at a time."""
        found = []
        for part in parts(len(addresses)):
            values = addresses[part] & _ADDRESS
            blocks = table.look(values)
            is_hit = blocks >= 0
            if not is_hit.any():
                continue
            blocks, values = blocks[is_hit], values[is_hit]
            flags = np.where(values != table.starts[blocks], INTERIOR, 0)
            if table.link_offset:
                flags |= np.where(values == table.ends[blocks] - np.uint64(table.link_offset), LINK, 0)
            labels = np.full(len(blocks), self._labels.number(label), np.uint32)
            found.append(blocks.astype(np.uint32))
            roots.add(labels, found[-1], flags.astype(np.uint8))
        return found


def _live_ranges(table: BlockTable) -> list[tuple[int, int]]:
    """Ranges that hold all blocks, without large free parts; whole words."""
    if not len(table):
        return []
    is_far = table.starts[1:] - table.ends[:-1] > np.uint64(_GAP_BYTES)
    starts = table.starts[np.concatenate(([True], is_far))]
    ends = table.ends[np.concatenate((is_far, [True]))]
    return [(start // 8 * 8, end // 8 * 8) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _take_first_words(
    table: BlockTable, data: Bytes, addresses: Words, offsets: Sequence[int], sizes: Places, found: Words
) -> None:
    """The first word of each block that starts in these runs."""
    lows = np.searchsorted(table.starts, addresses)
    highs = np.searchsorted(table.starts, addresses + sizes.astype(np.uint64))
    words = data[: len(data) // 8 * 8].view(np.uint64)
    for low, high, address, offset in zip(lows.tolist(), highs.tolist(), addresses.tolist(), offsets, strict=True):
        if high > low:
            index = (table.starts[low:high] - np.uint64(address)).astype(np.int64) // 8 + offset // 8
            found[low:high] = words[index]
