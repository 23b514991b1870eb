"""Which words of a window are references to a set of objects, or addresses of native blocks."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nativeleak.arrays import distinct, union
from nativeleak.runtimes.hotspot.heap.layout import Layout
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, Indices, Window

_GRAIN_BITS: Final = 12
_MAX_GRAINS: Final = 1 << 23
_PART: Final = 1 << 16


class Hits(NamedTuple):
    """Words of a window that match.

    Attributes:
        places: Bytes from its start, in order.
        found: Index of the block, or address of the object.
    """

    places: Indices
    found: npt.NDArray[np.int64] | npt.NDArray[np.uint64]


class Blocks:
    """Native blocks in address order.

    Args:
        starts: Their first addresses, ascending.
        sizes: Bytes of each.
    """

    def __init__(self, starts: Addresses, sizes: Addresses) -> None:
        self.starts = starts
        self.sizes = sizes
        self._low = int(starts[0]) if len(starts) else 0
        self._span = int((starts + sizes).max()) - self._low if len(starts) else 0
        self._bits = 16
        while self._span >> self._bits >= _MAX_GRAINS:
            self._bits += 1
        # Which grains hold a part of a block: most words that look like addresses fall into none.
        self._grains: Flags = np.zeros((self._span >> self._bits) + 1, np.bool_)
        for low in range(0, len(starts), _PART):
            self._mark(slice(low, low + _PART))

    def _mark(self, part: slice) -> None:
        """Mark the grains of some blocks."""
        origin, bits = np.uint64(self._low), np.uint64(self._bits)
        starts = self.starts[part] - origin
        first = (starts >> bits).astype(np.int64)
        last = ((starts + np.maximum(self.sizes[part], np.uint64(1)) - np.uint64(1)) >> bits).astype(np.int64)
        self._grains[first] = True
        # A block of many grains is a large one, and those are few.
        for index in np.flatnonzero(last > first).tolist():
            self._grains[first[index] : last[index] + 1] = True

    def __len__(self) -> int:
        return len(self.starts)

    def hits(self, window: Window) -> Hits:
        """Words that point into a block."""
        words = window.words
        if not len(self):
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64))
        at = np.flatnonzero(words - np.uint64(self._low) < np.uint64(self._span))
        values = words[at]
        near = self._grains[((values - np.uint64(self._low)) >> np.uint64(self._bits)).astype(np.int64)]
        at, values = at[near], values[near]
        index = np.searchsorted(self.starts, values, side="right") - 1
        inside = values - self.starts[index] < self.sizes[index]
        return Hits(at[inside] * 8, index[inside])


class Targets:
    """Objects whose referrers are looked for; more can be added between windows.

    Args:
        layout: How references are written.
        objects: Their addresses.
    """

    def __init__(self, layout: Layout, objects: Addresses) -> None:
        self._layout = layout
        self._is_narrow = layout.is_narrow
        bits = max(0, _GRAIN_BITS - layout.oop_shift) if self._is_narrow else _GRAIN_BITS
        self._bits = bits
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._low, self._high = (1 << 64) - 1, 0
        self._origin = 0
        self._grains = np.zeros(1 << 32 - bits if self._is_narrow else 0, np.bool_)
        self.add(objects)

    def add(self, objects: Addresses) -> None:
        """Look for these too."""
        if not len(objects):
            return
        keys = distinct(self._layout.keys(objects))
        self._low, self._high = min(self._low, int(keys[0])), max(self._high, int(keys[-1]))
        if self._is_narrow:
            self._grains[(keys >> np.uint64(self._bits)).astype(np.int64)] = True
        # Few arrays, each at least twice as long as the next: adding costs little.
        self._keys.append(keys)
        while len(self._keys) > 1 and len(self._keys[-2]) <= 2 * len(self._keys[-1]):
            last = self._keys.pop()
            self._keys[-1] = union(self._keys[-1], last)

    def hits(self, window: Window) -> Hits:
        """References of a window to these objects."""
        none = Hits(np.zeros(0, np.int64), np.zeros(0, np.uint64))
        if self._low > self._high:
            return none
        if self._is_narrow:
            halves = window.halves
            at = np.flatnonzero(halves - np.uint32(self._low) <= np.uint32(self._high - self._low))
            near = self._grains[halves[at] >> np.uint32(self._bits)]
            at = at[near]
            values = halves[at].astype(np.uint64)
        else:
            words = window.words
            at = np.flatnonzero(words - np.uint64(self._low) <= np.uint64(self._high - self._low))
            values = words[at]
        if not len(at):
            return none
        is_one = np.zeros(len(at), np.bool_)
        for keys in self._keys:
            index = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
            is_one |= keys[index] == values
        size = self._layout.reference_bytes
        return Hits(at[is_one] * size, self._layout.addresses(values[is_one]))


class Known:
    """A growing set of addresses."""

    def __init__(self) -> None:
        self._parts: list[Addresses] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def new_of(self, objects: Addresses) -> Addresses:
        """Those that are not in the set, each once; they are in it from now on."""
        objects = distinct(objects)
        for part in self._parts:
            if not len(objects):
                return objects
            at = np.minimum(np.searchsorted(part, objects), len(part) - 1)
            objects = objects[part[at] != objects]
        if len(objects):
            self._parts.append(objects)
            while len(self._parts) > 1 and len(self._parts[-2]) <= 2 * len(self._parts[-1]):
                last = self._parts.pop()
                self._parts[-1] = union(self._parts[-1], last)
        return objects
