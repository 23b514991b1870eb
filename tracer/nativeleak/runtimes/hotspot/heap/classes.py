"""The loaded classes of a JVM, as tables that headers of objects are looked up in.

Scope: names, sizes and superclasses; ``fields`` has the fields. Class loaders list their classes; array classes of the
JVM's own types are listed by the loader of the JDK.

Source: classLoaderData.hpp, klass.hpp (layout_helper: positive for instances, their size in bytes with the lowest bit
for slow allocation; negative for arrays: tag, header bytes, element type, logarithm of the element's size).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from nativeleak.runtimes.hotspot.heap.layout import Header, Layout
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Indices
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

MAX_CLASSES: Final = 1 << 18
_MAX_LOADERS: Final = 1 << 17
_MAX_DEPTH: Final = 128
_PAGE_BITS: Final = 12
_MAX_PAGES: Final = 1 << 22
_MAX_NAME_BYTES: Final = 4096

CLASS: Final = "java/lang/Class"
REFERENCE: Final = "java/lang/ref/Reference"


class ClassTable:
    """The classes of one JVM.

    Args:
        vm: The JVM.
        layout: How its headers name classes.

    Attributes:
        addresses: Of each Klass.
        names: Internal names, ``java/lang/String``, ``[J``.
        helpers: Layout helper of each.
        class_index: Index of java.lang.Class.
        n_broken: Lists that could not be read to their end.

    Raises:
        UnreadableError: The JVM does not describe its classes.
    """

    def __init__(self, vm: HotSpot, layout: Layout) -> None:
        self._vm = vm
        self.layout = layout
        self.addresses: list[int] = []
        self.names: list[str] = []
        self.n_broken = 0
        self._supers: list[int] = []
        helpers: list[int] = []
        for klass in self._walk():
            try:
                name, helper = self._name(klass), vm.memory.i32(klass + self._field("Klass::_layout_helper"))
                above = vm.memory.u64(klass + self._field("Klass::_super"))
            except UnreadableError:
                continue
            self.addresses.append(klass)
            self.names.append(name)
            self._supers.append(above)
            helpers.append(helper)
        self.helpers: Indices = np.array(helpers, np.int64)
        self._index = {address: index for index, address in enumerate(self.addresses)}
        self._by_name: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            self._by_name.setdefault(name, []).append(index)
        found = self._by_name.get(CLASS)
        if not found:
            raise UnreadableError("reading the classes of the JVM failed: java.lang.Class is not among them")
        self.class_index = found[0]
        self._above: dict[int, frozenset[str]] = {}
        self._make_keys()

    def __len__(self) -> int:
        return len(self.addresses)

    def index_of(self, address: int) -> int | None:
        """Index of a Klass, None where it is none that is listed."""
        return self._index.get(address)

    def named(self, name: str) -> list[int]:
        """Indices of the classes of an internal name: one for each loader that has its own."""
        return self._by_name.get(name, [])

    def above(self, index: int) -> frozenset[str]:
        """Names of a class and all its superclasses."""
        found = self._above.get(index)
        if found is None:
            names = set()
            at: int | None = index
            for _ in range(_MAX_DEPTH):
                if at is None:
                    break
                names.add(self.names[at])
                at = self._index.get(self._supers[at])
            found = self._above[index] = frozenset(names)
        return found

    def super_of(self, index: int) -> int | None:
        """Index of the superclass."""
        return self._index.get(self._supers[index])

    def is_array(self, index: int) -> bool:
        """Whether it is a class of arrays."""
        return self.names[index].startswith("[")

    def refers(self, index: int) -> bool:
        """Whether objects of an array class hold references."""
        return self.names[index].startswith(("[L", "[["))

    def look_up(self, keys: npt.NDArray[np.uint64] | npt.NDArray[np.uint32]) -> Indices:
        """Indices of the classes that these header words mean, -1 for none.

        Args:
            keys: Compressed or plain classes; with compact headers shifted down already.
        """
        offsets = keys.astype(np.uint64) - np.uint64(self.key_min)
        found = np.full(len(keys), -1, np.int64)
        near = np.flatnonzero(offsets <= np.uint64(self.key_span))
        near = near[self._pages[(offsets[near] >> np.uint64(self._page_bits)).astype(np.int64)]]
        at = np.searchsorted(self._keys, offsets[near])
        is_one = self._keys[np.minimum(at, len(self._keys) - 1)] == offsets[near]
        found[near[is_one]] = self._order[at[is_one]]
        return found

    def _make_keys(self) -> None:
        keys = np.array(self.addresses, np.uint64)
        if self.layout.header is not Header.WIDE:
            keys = (keys - np.uint64(self.layout.klass_base)) >> np.uint64(self.layout.klass_shift)
            reachable = keys < np.uint64(1 << 32)  # an array class outside of the class space has no instances
            keys = np.where(reachable, keys, keys[reachable].min() if reachable.any() else 0)
        self._order: Indices = np.argsort(keys, kind="stable").astype(np.int64)
        self.key_min = int(keys.min())
        self._keys: Addresses = keys[self._order] - np.uint64(self.key_min)
        self.key_span = int(self._keys[-1])
        self._page_bits = _PAGE_BITS if self.layout.header is not Header.COMPACT else 2
        while self.key_span >> self._page_bits > _MAX_PAGES:
            self._page_bits += 1
        self._pages = np.zeros((self.key_span >> self._page_bits) + 1, np.bool_)
        self._pages[(self._keys >> np.uint64(self._page_bits)).astype(np.int64)] = True

    def _walk(self) -> list[int]:
        """Addresses of all classes that the loaders list."""
        vm, memory = self._vm, self._vm.memory
        following = self._field("ClassLoaderData::_next")
        first, link = self._field("ClassLoaderData::_klasses"), self._field("Klass::_next_link")
        loader = vm.pointer("ClassLoaderDataGraph::_head") or 0
        seen: dict[int, None] = {}
        loaders: set[int] = set()
        while loader and loader not in loaders and len(loaders) < _MAX_LOADERS:
            loaders.add(loader)
            try:
                klass = memory.u64(loader + first)
                while klass and klass not in seen and len(seen) < MAX_CLASSES:
                    seen[klass] = None
                    klass = memory.u64(klass + link)
            except UnreadableError:
                self.n_broken += 1
            try:
                loader = memory.u64(loader + following)
            except UnreadableError:
                self.n_broken += 1
                break
        return list(seen)

    def _field(self, *names: str) -> int:
        offset = self._vm.structs.field(*names)
        if offset is None:
            raise UnreadableError(f"the JVM does not describe {names[0]}")
        return offset

    def _name(self, klass: int) -> str:
        memory = self._vm.memory
        symbol = memory.u64(klass + self._field("Klass::_name"))
        n_bytes = memory.u16(symbol + self._field("Symbol::_length"))
        if not 0 < n_bytes <= _MAX_NAME_BYTES:
            raise UnreadableError("reading a class name failed")
        text = memory.read(symbol + self._field("Symbol::_body", "Symbol::_body[0]"), n_bytes)
        return text.decode("utf-8", "replace")
