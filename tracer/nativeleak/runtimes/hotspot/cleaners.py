"""Objects that wait for the JDK's common cleaner: Deflaters and Inflaters that were not ended, and others, by class.

Scope: one walk of the cleaner's list, bounded in number and time. An entry is there from the constructor until
``end()``, or until the collector has found the object dead and the cleaner has run: as long as the native memory is
held. The list is linked through the heap, and objects move: each object is believed only by its class, and a walk that
breaks is begun anew. Direct buffers have a list of their own, which ``java.nio.Bits`` counts. An application's own
cleaners (``Cleaner.create()``) have lists that no static field leads to.

Source: jdk.internal.ref.CleanerFactory, CleanerImpl, PhantomCleanable (a ring of entries up to JDK 24, arrays of them
since JDK 25), java.util.zip.Deflater and Inflater; objArrayOop.hpp.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from nativeleak.runtimes.hotspot.memory import Memory, UnreadableError
from nativeleak.runtimes.hotspot.oops import StringReader

_FACTORY: Final = "jdk/internal/ref/CleanerFactory"
_CLEANER: Final = "java/lang/ref/Cleaner"
_IMPL: Final = "jdk/internal/ref/CleanerImpl"
_LIST: Final = "jdk/internal/ref/CleanerImpl$CleanableList"
_NODE: Final = "jdk/internal/ref/CleanerImpl$CleanableList$Node"
_ENTRY: Final = "jdk/internal/ref/PhantomCleanable"
_WITH_ACTION: Final = "jdk/internal/ref/CleanerImpl$PhantomCleanableRef"
CLASSES: Final = frozenset({_FACTORY, _CLEANER, _IMPL, _LIST, _NODE, _ENTRY, _WITH_ACTION})
"""Classes whose Klass ``count_cleaners`` wants."""
DEFLATER: Final = "java/util/zip/Deflater$DeflaterZStreamRef"
INFLATER: Final = "java/util/zip/Inflater$InflaterZStreamRef"

MOST_ENTRIES: Final = 100_000
MOST_S: Final = 0.5
"""CPU time that a walk may take: triage of a process takes some 0.5 s."""
_TRIES: Final = 3
_NODE_ENTRIES: Final = 4096
_CHECK_EVERY: Final = 256


class Classes(Protocol):
    """The classes of a JVM, as ``statics`` reads them."""

    def offset(self, klass: int, name: str) -> int | None:
        """Offset of a field in an object, or in the mirror of the class; None where it has no such field."""

    def mirror(self, klass: int) -> int:
        """Address of the reference to the mirror of a class."""

    def super_of(self, klass: int) -> int:
        """The class above a class, 0 above Object."""


@dataclass(frozen=True, slots=True)
class Cleaners:
    """What waits for the common cleaner.

    Attributes:
        by_class: Entries by the class of what they would run, internal names; the most frequent first.
        is_whole: Whether the list was read to its end; else ``by_class`` counts a part.
    """

    by_class: tuple[tuple[str, int], ...]
    is_whole: bool

    def count(self, name: str) -> int | None:
        """Entries of a class; None where none was met and a part of the list was not read."""
        return dict(self.by_class).get(name, 0 if self.is_whole else None)


class _TornError(Exception):
    """The list changed, or objects moved, while it was read."""


def count_cleaners(
    memory: Memory, classes: Classes, objects: StringReader, found: dict[str, int], flush: Callable[[], None]
) -> Cleaners | None:
    """Walk the list; None where the JVM has none, or where it proves to be none three times.

    Args:
        memory: Of the process.
        classes: Of its JVM.
        objects: Follows references.
        found: Klass by name, for ``CLASSES``; those that are not loaded are missing.
        flush: Forgets what was read of the process's memory so far.
    """
    if not {_FACTORY, _CLEANER, _IMPL, _ENTRY, _WITH_ACTION} <= found.keys():
        return None
    walk = _Walk(memory, classes, objects, found)
    for attempt in range(_TRIES):
        if attempt:
            flush()
        try:
            return walk.count()
        except (UnreadableError, _TornError):
            continue
    return None


class _Walk:
    def __init__(self, memory: Memory, classes: Classes, objects: StringReader, found: dict[str, int]) -> None:
        self._memory, self._classes, self._objects, self._found = memory, classes, objects, found
        self._entries = {found[_WITH_ACTION]: True}
        self._names: dict[int, str] = {}

    def count(self) -> Cleaners:
        impl = self._impl()
        ring = self._classes.offset(self._found[_IMPL], "phantomCleanableList")
        entries = self._ring(self._follow(impl + ring)) if ring is not None else self._arrays(impl)
        action = self._offset(_WITH_ACTION, "action")
        counts: Counter[str] = Counter()
        deadline_s = time.process_time() + MOST_S
        is_whole = True
        for number, (entry, klass) in enumerate(entries):
            if number >= MOST_ENTRIES or (number % _CHECK_EVERY == 0 and time.process_time() > deadline_s):
                is_whole = False
                break
            if klass == self._found[_WITH_ACTION]:
                klass = self._objects.klass_of(self._follow(entry + action))
            counts[self._name(klass)] += 1
        return Cleaners(tuple(counts.most_common()), is_whole)

    def _impl(self) -> int:
        """The common cleaner's list-keeper."""
        field = self._offset(_FACTORY, "commonCleaner")
        handle = self._classes.mirror(self._found[_FACTORY])
        cleaner = self._objects.find(handle, field, _CLEANER)
        if cleaner is None:
            raise _TornError
        impl = self._follow(cleaner + self._offset(_CLEANER, "impl"))
        if self._objects.klass_of(impl) != self._found[_IMPL]:
            raise _TornError
        return impl

    def _ring(self, head: int) -> Iterator[tuple[int, int]]:
        """Entries behind the head of a ring, with their classes."""
        following = self._offset(_ENTRY, "next")
        self._entry_class(head)
        entry, before = self._follow(head + following), head
        while entry != head:
            klass = self._entry_class(entry)
            if entry == before:  # one that was removed refers to itself
                raise _TornError
            yield entry, klass
            entry, before = self._follow(entry + following), entry

    def _arrays(self, impl: int) -> Iterator[tuple[int, int]]:
        """Entries in the arrays of a list of nodes, with their classes."""
        if not {_LIST, _NODE} <= self._found.keys():
            raise _TornError
        whole = self._follow(impl + self._offset(_IMPL, "activeList"))
        if self._objects.klass_of(whole) != self._found[_LIST]:
            raise _TornError
        array, size, following = (self._offset(_NODE, name) for name in ("arr", "size", "next"))
        node = self._objects.follow(whole + self._offset(_LIST, "head"))
        for _ in range(MOST_ENTRIES // _NODE_ENTRIES + 2):
            if node is None:
                return
            n_entries = self._memory.i32(node + size)
            if self._objects.klass_of(node) != self._found[_NODE] or not 0 <= n_entries <= _NODE_ENTRIES:
                raise _TornError
            first, step = self._objects.elements(self._follow(node + array))
            for index in range(n_entries):
                entry = self._follow(first + index * step)
                yield entry, self._entry_class(entry)
            node = self._objects.follow(node + following)

    def _follow(self, address: int) -> int:
        found = self._objects.follow(address)
        if found is None:
            raise _TornError
        return found

    def _offset(self, name: str, field: str) -> int:
        offset = self._classes.offset(self._found[name], field)
        if offset is None:
            raise UnreadableError(f"the JVM does not say where {name} has {field}")
        return offset

    def _entry_class(self, entry: int) -> int:
        """Class of an entry.

        Raises:
            _TornError: The object is no entry.
        """
        klass = self._objects.klass_of(entry)
        if klass not in self._entries:
            above, depth = klass, 0
            while above and above != self._found[_ENTRY] and depth < _CHECK_EVERY:
                above, depth = self._classes.super_of(above), depth + 1
            self._entries[klass] = above == self._found[_ENTRY]
        if not self._entries[klass]:
            raise _TornError
        return klass

    def _name(self, klass: int) -> str:
        if klass not in self._names:
            self._names[klass] = self._objects.class_name(klass)
        return self._names[klass]
