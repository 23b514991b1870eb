"""Which object a place in the Java heap belongs to.

Scope: headers identify objects. A walk would not do: the ends of allocation buffers are no objects, and objects move
while they are read. A place of 8 bytes is a header if its mark is plausible and its class is loaded; an object of a
place is the last header before it that covers it and has a field of the right kind there. Large arrays whose header
lies far before are searched for backwards, and kept.

Source: markWord.hpp: lowest bits 01 unlocked, 00 and 10 locked, 11 moved; 101 biased (JDK 11 and 17).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from nativeleak.arrays import distinct_in_place
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.layout import Header, Layout
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Bytes, Flags, HeapPages, Indices, Window
from nativeleak.runtimes.hotspot.heap.parts import HUMONGOUS, Part

_NEAR_WORDS: Final = 32
_FEW: Final = 4096
"""Places looked up in their neighbourhood; with more of them all of a window is searched for headers."""
_STEPS_BACK: Final = 24
_ACROSS_BYTES: Final = 64 << 10
_LARGE_BYTES: Final = 32 << 10
_STEP_BYTES: Final = 1 << 20
_MAX_BACK_BYTES: Final = 1 << 30
_MAX_SEARCHES: Final = 256
_MAX_LARGE: Final = 1 << 16
_LOCKED_LOW: Final = 0x80  # a lightweight lock leaves age and lock bits alone; others are addresses
_LOCKED_HIGH: Final = 1 << 32
_ADDRESS_LIMIT: Final = 1 << 47

Accept = Callable[[Indices, Indices], Flags]
"""Whether classes have a field of the kind that is looked for at offsets: (classes, offsets) -> flags."""


class Headers(NamedTuple):
    """Objects of a window, in address order.

    Attributes:
        places: Of their headers, in words from the window's start.
        classes: Their indices in the class table.
        sizes: Bytes.
    """

    places: Indices
    classes: Indices
    sizes: Indices


class Owners(NamedTuple):
    """The objects of some places.

    Attributes:
        objects: Address of each, 0 where none was found.
        classes: Index of each one's class, -1 where none was found.
    """

    objects: Addresses
    classes: Indices


class ObjectFinder:
    """Finds objects in one heap.

    Args:
        layout: How headers are written.
        classes: That are loaded.
        parts: Of the heap, in address order, those in use.
        pages: Of the process.
        mirror_size_offset: Offset in a java.lang.Class of its own size in words; None if unknown.
        stack_chunk: (class, offset of the size in words) of the stacks of virtual threads; None where there are none.

    Attributes:
        n_searches: For large arrays that began before a window.
    """

    def __init__(
        self,
        layout: Layout,
        classes: ClassTable,
        parts: Sequence[Part],
        pages: HeapPages,
        mirror_size_offset: int | None,
        stack_chunk: tuple[int, int] | None = None,
    ) -> None:
        self._layout = layout
        self._classes = classes
        self._pages = pages
        self._mirror_size = mirror_size_offset
        self._stack_chunk = stack_chunk
        self._parts = list(parts)
        self._starts: Addresses = np.array([part.start for part in parts], np.uint64)
        self._tops: Addresses = np.array([part.top for part in parts], np.uint64)
        self._runs_on: Flags = np.array([part.kind in (HUMONGOUS, "archive") for part in parts], np.bool_)
        self._heap_top = int(self._tops.max()) if len(parts) else 0
        self._large: list[tuple[int, int, int]] = []
        self._without: set[tuple[int, int]] = set()
        self.n_searches = 0

    def owners(self, window: Window, places: Indices, accept: Accept) -> Owners:
        """The object of each place.

        Args:
            window: That holds them.
            places: Bytes from its start, in order.
            accept: Whether an object of a class may have what is looked for at an offset.
        """
        found = Owners(np.zeros(len(places), np.uint64), np.full(len(places), -1, np.int64))
        if not len(places):
            return found
        open_ = np.ones(len(places), np.bool_)
        self._take_known(window, places, open_, found, accept)
        if open_.any():
            near = len(places) <= _FEW
            headers = self.headers(window, _neighbours(places[open_], len(window.words)) if near else None)
            self._take(window, headers, places, open_, found, accept)
            if near and open_.any():
                self._take(window, self.headers(window, None), places, open_, found, accept)
        if open_.any() and places[np.argmax(open_)] < _ACROSS_BYTES:
            self._take_across(window, places, open_, found, accept)
        if open_.any():
            self._search_back(window, places, open_, found, accept)
        return found

    def headers(self, window: Window, places: Indices | None) -> Headers:
        """The headers at some places, or all of a window.

        Args:
            window: Where they are.
            places: In words from its start, in order; None for all.
        """
        words = window.words
        places, keys = self._class_words(window, places)
        classes = self._classes.look_up(keys)
        is_class = classes >= 0
        places, classes = places[is_class], classes[is_class]
        is_marked = _are_marks(self._layout, words[places])
        places, classes = places[is_marked], classes[is_marked]
        sizes = self._sizes(window, places, classes)
        starts = places.astype(np.uint64) * np.uint64(8) + np.uint64(window.start)
        fits = (sizes > 0) & self._fit(starts, sizes)
        for index in np.flatnonzero(fits & (sizes > _LARGE_BYTES)).tolist():
            start = int(starts[index])
            fits[index] = self._is_followed(start, int(sizes[index]))
            if fits[index]:
                self._keep_large(start, start + int(sizes[index]), int(classes[index]))
        return Headers(places[fits], classes[fits], sizes[fits])

    def _class_words(self, window: Window, places: Indices | None) -> tuple[Indices, Addresses]:
        """Places that may be headers, and the class that each names."""
        layout = self._layout
        low, span = self._classes.key_min, self._classes.key_span
        if layout.header is Header.NARROW:
            halves = window.halves[2::2]  # the half word behind each mark
            if places is None:
                places = np.flatnonzero(halves - np.uint32(low) <= np.uint32(min(span, 0xFFFF_FFFF)))
            return places, halves[places].astype(np.uint64)
        words = window.words
        if layout.header is Header.WIDE:
            behind = words[1:]
            if places is None:
                places = np.flatnonzero(behind - np.uint64(low) <= np.uint64(span))
            return places, behind[places]
        shift = layout.mark_klass_shift
        if places is None:
            first, last = low << shift, ((low + span + 1) << shift) - 1
            places = np.flatnonzero(words[:-1] - np.uint64(first) <= np.uint64(last - first))
        return places, words[places] >> np.uint64(shift)

    def _sizes(self, window: Window, places: Indices, classes: Indices) -> Indices:
        """Bytes of objects; 0 where they cannot be known."""
        helpers = self._classes.helpers[classes]
        sizes = np.where(helpers > 0, helpers & ~1, 0)
        is_array = helpers < 0
        if is_array.any():
            at = places[is_array] * 2 + self._layout.length_offset // 4
            halves = window.halves
            lengths = np.where(at < len(halves), halves[np.minimum(at, len(halves) - 1)], 0).astype(np.int64)
            helper = helpers[is_array]
            n_bytes = (helper >> 16 & 0xFF) + (lengths << (helper & 0x3F).clip(0, 5))
            # A length has 31 bits.
            sizes[is_array] = np.where((lengths < 1 << 31) & (at < len(halves)), (n_bytes + 7) // 8 * 8, 0)
        if self._mirror_size is not None:
            for index in np.flatnonzero(classes == self._classes.class_index).tolist():
                place = int(places[index]) * 2 + self._mirror_size // 4
                n_words = int(window.halves[place]) if place < len(window.halves) else 0
                sizes[index] = 8 * n_words if n_words < 1 << 20 else 0
        if self._stack_chunk is not None:
            for index in np.flatnonzero(classes == self._stack_chunk[0]).tolist():
                place = int(places[index]) * 2 + self._stack_chunk[1] // 4
                n_words = int(window.halves[place]) if place < len(window.halves) else 0
                sizes[index] += 8 * n_words if n_words < 1 << 20 else 0
        return sizes

    def _fit(self, starts: Addresses, sizes: Indices) -> Flags:
        """Whether each object ends inside of its region or space; only humongous ones run on."""
        index = np.maximum(np.searchsorted(self._starts, starts, side="right") - 1, 0)
        ends = starts + sizes.astype(np.uint64)
        is_in = (starts >= self._starts[index]) & (ends <= self._tops[index])
        runs_on = self._runs_on[index] & (ends <= np.uint64(self._heap_top))
        return np.asarray(is_in | runs_on, np.bool_)

    def _is_followed(self, start: int, n_bytes: int) -> bool:
        """Whether another header follows a large object, or it ends its space.

        Without it, one false header of an array swallows all objects behind it.
        """
        end = start + n_bytes
        index = max(0, int(np.searchsorted(self._starts, np.uint64(start), side="right")) - 1)
        if end == int(self._tops[index]) or self._runs_on[index]:
            return True
        if end + 16 > int(self._tops[index]):
            return False
        window = self._pages.read(end, end + 16)
        return window is not None and int(class_at(self._layout, self._classes, window.data.reshape(1, 16))[0]) >= 0

    def _take(
        self, window: Window, headers: Headers, places: Indices, open_: Flags, found: Owners, accept: Accept
    ) -> None:
        """Give the places that are still open to the last headers that cover them."""
        if not len(headers.places):
            return
        at = np.flatnonzero(open_)
        index = np.searchsorted(headers.places * 8, places[at], side="right") - 1
        for _ in range(_STEPS_BACK):
            keep = index >= 0
            at, index = at[keep], index[keep]
            if not len(at):
                return
            offsets = places[at] - headers.places[index] * 8
            classes = headers.classes[index]
            covers = (offsets < headers.sizes[index]) & (offsets >= 8)
            covers[covers] = accept(classes[covers], offsets[covers])
            chosen = at[covers]
            found.objects[chosen] = (headers.places[index[covers]] * 8).astype(np.uint64) + np.uint64(window.start)
            found.classes[chosen] = classes[covers]
            open_[chosen] = False
            at, index = at[~covers], index[~covers] - 1

    def _keep_large(self, start: int, end: int, index: int) -> None:
        place = bisect.bisect_left(self._large, (start, end, index))
        is_known = place < len(self._large) and self._large[place] == (start, end, index)
        if not is_known and len(self._large) < _MAX_LARGE:
            self._large.insert(place, (start, end, index))

    def _take_known(self, window: Window, places: Indices, open_: Flags, found: Owners, accept: Accept) -> None:
        """Give places to large objects that are known."""
        first = bisect.bisect_left(self._large, (window.start, 0, 0))
        # One that began before the window, and those in it.
        for start, end, index in self._large[max(0, first - 2) :]:
            if start >= window.end:
                break
            low, high = np.searchsorted(places, [start + 8 - window.start, end - window.start])
            if low >= high:
                continue
            part = np.arange(low, high)[open_[low:high]]
            fits = accept(np.full(len(part), index), places[part] + window.start - start)
            part = part[fits]
            found.objects[part] = start
            found.classes[part] = index
            open_[part] = False

    def _take_across(self, window: Window, places: Indices, open_: Flags, found: Owners, accept: Accept) -> None:
        """Give places at a window's start to objects that began before it."""
        before = self._pages.present(window.start - _ACROSS_BYTES, window.start)
        if not before or before[-1][1] != window.start:
            return
        low = before[-1][0]
        across = self._pages.read(low, min(window.start + _ACROSS_BYTES, window.end))
        if across is not None:
            self._take(across, self.headers(across, None), places + (window.start - low), open_, found, accept)

    def _search_back(self, window: Window, places: Indices, open_: Flags, found: Owners, accept: Accept) -> None:
        """Look before the window for the array that runs into it."""
        for index in np.flatnonzero(open_).tolist():
            if not open_[index] or self.n_searches >= _MAX_SEARCHES:
                continue
            address = window.start + int(places[index])
            part = max(0, int(np.searchsorted(self._starts, np.uint64(address), side="right")) - 1)
            key = part, address // _STEP_BYTES
            if key in self._without:
                continue
            self.n_searches += 1
            if not self._finds_array(address, part):
                self._without.add(key)
                continue
            self._take_known(window, places, open_, found, accept)

    def _finds_array(self, address: int, part: int) -> bool:
        """Whether an array that covers an address was found before it; it is kept."""
        if self._runs_on[part]:
            return self._finds_humongous(address, part)
        bottom = int(self._starts[part])
        high = address // 8 * 8
        while high > bottom and address - high < _MAX_BACK_BYTES:
            low = max(bottom, high - _STEP_BYTES)
            # The header's last words may lie behind what is searched.
            window = self._pages.read(low, min(high + 24, int(self._tops[part]) // 8 * 8))
            if window is None:
                return False
            headers = self.headers(window, None)
            ends = headers.places * 8 + headers.sizes + window.start
            if ((ends > address) & (headers.places * 8 + window.start < address)).any():
                return any(start < address < end for start, end, _ in self._large)
            high = low
        return False

    def _finds_humongous(self, address: int, part: int) -> bool:
        """The object at the start of the first of neighbouring humongous regions."""
        while part >= 0 and self._runs_on[part]:
            start = int(self._starts[part])
            window = self._pages.read(start, start + 32)
            if window is not None:
                headers = self.headers(window, np.zeros(1, np.int64))
                if len(headers.places) and start + int(headers.sizes[0]) > address:
                    return True
            part -= 1
            if part >= 0 and self._parts[part].end != start:
                break
        return False


def _neighbours(places: Indices, n_words: int) -> Indices:
    """Words at and before some places (bytes), each once, in order; the last word is none: its class would follow."""
    spread = (places[:, None] // 8 - np.arange(_NEAR_WORDS)[None, :]).ravel()
    return distinct_in_place(spread[(spread >= 0) & (spread < n_words - 1)])


def class_at(layout: Layout, classes: ClassTable, heads: Bytes) -> Indices:
    """Class of each object from its first 16 bytes, -1 where these are no header.

    Args:
        layout: How headers are written.
        classes: That are loaded.
        heads: n x 16 bytes.
    """
    words = np.ascontiguousarray(heads).view(np.uint64).reshape(-1, 2)
    marks = words[:, 0]
    if layout.header is Header.COMPACT:
        keys = marks >> np.uint64(layout.mark_klass_shift)
    elif layout.header is Header.NARROW:
        keys = words[:, 1] & np.uint64(0xFFFF_FFFF)
    else:
        keys = words[:, 1]
    return np.where(_are_marks(layout, marks), classes.look_up(keys), -1)


def _are_marks(layout: Layout, marks: Addresses) -> Flags:
    low = marks & np.uint64(3)
    if layout.header is Header.COMPACT:
        return np.asarray(low != 3, np.bool_)
    is_free = (low == 1) & (marks >> np.uint64(layout.hash_top) == 0)
    if layout.is_biased:
        is_free |= marks & np.uint64(7) == 5
    is_place = (marks < np.uint64(_LOCKED_LOW)) | (marks >= np.uint64(_LOCKED_HIGH))
    is_locked = ((low == 0) | (low == 2)) & is_place & (marks < np.uint64(_ADDRESS_LIMIT)) & (marks != 0)
    return np.asarray(is_free | is_locked, np.bool_)
