"""Pointers from block to block: collected in the order of their sources, spilled to a file where there are many.

Scope: one scan. Memory is bounded: beyond ``MAX_IN_MEMORY`` edges the targets lie in a file without a name, which the
kernel keeps in memory as far as there is room, and drops with the process.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import Final

import numpy as np

from nativeleak.heaps.memory import Places
from nativeleak.holders.table import Blocks

MAX_IN_MEMORY: Final = 8 << 20
"""Edges, 4 bytes each."""


class Graph:
    """Edges of all blocks: those of block v are ``targets[offsets[v]:offsets[v + 1]]``.

    Attributes:
        offsets: One more than there are blocks.
        targets: Blocks, some with the bit ``LEFTOVER``.
    """

    def __init__(self, offsets: Places, targets: Blocks, mapped: mmap.mmap | None = None) -> None:
        self.offsets = offsets
        self.targets = targets
        self._mapped = mapped

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.targets)

    def rest(self) -> None:
        """Give back what a spilled graph takes of our resident memory; the next use reads it again."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)


class EdgeStore:
    """Takes edges in ascending order of their sources.

    Args:
        n_blocks: Number of blocks.
        max_in_memory: Edges kept in memory.

    Attributes:
        is_spilled: Whether a file was needed.
    """

    def __init__(self, n_blocks: int, max_in_memory: int = MAX_IN_MEMORY) -> None:
        self._counts = np.zeros(n_blocks + 1, np.int64)
        self._parts: list[Blocks] = []
        self._n_in_memory = 0
        self._max = max_in_memory
        self._file: tempfile._TemporaryFileWrapper[bytes] | None = None
        self._n_spilled = 0
        self._last = 0
        self.is_spilled = False

    def add(self, sources: Blocks, targets: Blocks) -> None:
        """Add edges; a source must not be below one of an earlier call.

        Raises:
            ValueError: It is.
        """
        if not len(sources):
            return
        low = int(sources[0])
        if low < self._last or (sources[1:] < sources[:-1]).any():
            raise ValueError(f"edges out of order: source {low} after {self._last}")
        self._last = int(sources[-1])
        counts = np.bincount(sources - np.uint32(low))
        self._counts[low + 1 : low + 1 + len(counts)] += counts
        self._parts.append(targets.copy())
        self._n_in_memory += len(targets)
        if self._n_in_memory > self._max:
            self._spill()

    def graph(self) -> Graph:
        """All edges; the store is of no use afterwards."""
        offsets = np.cumsum(self._counts, out=self._counts)
        if self._file is None:
            targets = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint32)
            self._parts = []
            return Graph(offsets, targets)
        self._spill()
        mapped = mmap.mmap(self._file.fileno(), 4 * self._n_spilled, mmap.MAP_SHARED, mmap.PROT_READ)
        self._file.close()
        return Graph(offsets, np.frombuffer(mapped, np.uint32), mapped)

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(prefix="nativeleak-edges-")  # noqa: SIM115 - closed by graph()
            self.is_spilled = True
        for part in self._parts:
            part.tofile(self._file)
        self._file.flush()
        self._n_spilled += self._n_in_memory
        self._parts, self._n_in_memory = [], 0
