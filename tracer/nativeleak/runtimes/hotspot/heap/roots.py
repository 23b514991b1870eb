"""Where the Java heap is held from outside: static fields, threads, their stacks, handles of native code.

Scope: objects that are held directly. Not read: references inside of compiled code, and those that only the JVM's own
tables have; an object that nothing else holds is then said to have no referrer. A word of a stack may be left over from
a call that has ended.

Source: oopStorage.hpp (a block: 64 references, a mask of those in use, the owner), oopStorage.inline.hpp (the array of
blocks: size, number, a count of users, then the blocks), jniHandles.hpp (JNIHandleBlock), javaClasses.hpp (a mirror
holds its class's static references one after the other).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from nativeleak.arrays import distinct_in_place
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.fields import FieldReader
from nativeleak.runtimes.hotspot.heap.layout import Layout
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, HeapPages, Indices
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.threadlist import JavaThread, read_thread_list

STORAGES: Final = "_ZN13OopStorageSet9_storagesE"
"""The JVM's storages of references (JDK 14 on); only in the full symbol table of libjvm.so."""

STATIC, THREAD, HANDLE, STACK = "static", "thread", "handle", "stack"

_WITHOUT_JAVA: Final = ("C1 CompilerThread", "C2 CompilerThread", "Sweeper thread", "Service Thread")
"""Threads of the JVM itself: what looks like a reference on their stacks is a number."""
_MAX_STATICS: Final = 1 << 12
_FEW_STATICS: Final = 32
_MAX_STORAGES: Final = 32
_BLOCK_REFERENCES: Final = 64
_BLOCK_BYTES: Final = 8 * _BLOCK_REFERENCES
_MAX_BLOCKS: Final = 1 << 17
_STORAGE_WORDS: Final = 16
_ARRAY_HEADER_BYTES: Final = 24
_MAX_HANDLE_BLOCKS: Final = 256
_HANDLES_IN_BLOCK: Final = 32
_MAX_STACK_BYTES: Final = 64 << 20
_MAX_STACK_WORDS: Final = 1 << 22
_RED_ZONE_BYTES: Final = 128
_MAX_TEXT: Final = 200


class Root(NamedTuple):
    """Something outside of the heap that holds objects.

    Attributes:
        kind: ``static``, ``thread``, ``stack``, ``handle``.
        name: Of the thread or the storage; empty for static fields.
        owner: Index of the class of a static field, -1 otherwise.
        offset: Of the static field in the mirror.
    """

    kind: str
    name: str
    owner: int = -1
    offset: int = 0


@dataclass(slots=True)
class Roots:
    """All that was found.

    Attributes:
        roots: Each.
        objects: Addresses of objects that are held, in order, each once.
        labels: Index in ``roots`` of what holds each; static fields go before threads, these before handles and stacks.
        mirrors: Addresses of mirrors, in order.
        mirror_classes: Index of the class of each.
        notes: What could not be read, for people.
    """

    roots: list[Root] = field(default_factory=list)
    objects: Addresses = field(default_factory=lambda: np.zeros(0, np.uint64))
    labels: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    mirrors: Addresses = field(default_factory=lambda: np.zeros(0, np.uint64))
    mirror_classes: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    notes: list[str] = field(default_factory=list)

    def labels_of(self, objects: Addresses) -> Indices:
        """Index in ``roots`` for each object, -1 where nothing outside holds it."""
        if not len(self.objects):
            return np.full(len(objects), -1, np.int64)
        at = np.minimum(np.searchsorted(self.objects, objects), len(self.objects) - 1)
        return np.where(self.objects[at] == objects, self.labels[at], -1)

    def are_ends(self, objects: Addresses) -> Flags:
        """Whether something holds each for certain, so that nothing above it need be looked for."""
        is_end = np.array([*(root.kind != STACK for root in self.roots), False], np.bool_)
        return np.asarray(is_end[self.labels_of(objects)], np.bool_)

    def class_of_mirror(self, address: int) -> int | None:
        """Index of the class that a mirror stands for."""
        at = int(np.searchsorted(self.mirrors, np.uint64(address)))
        if at < len(self.mirrors) and int(self.mirrors[at]) == address:
            return int(self.mirror_classes[at])
        return None


class RootReader:
    """Finds the roots of one heap.

    Args:
        vm: The JVM, opened with ``STORAGES``.
        pages: Of the process.
        layout: How references are written.
        classes: That are loaded.
        fields: Their fields.
        heap: (start, end) of the heap.
    """

    def __init__(
        self,
        vm: HotSpot,
        pages: HeapPages,
        layout: Layout,
        classes: ClassTable,
        fields: FieldReader,
        heap: tuple[int, int],
    ) -> None:
        self._vm = vm
        self._pages = pages
        self._layout = layout
        self._classes = classes
        self._fields = fields
        self._heap = heap
        self._found = Roots()
        self._objects: list[Addresses] = []
        self._labels: list[Indices] = []
        self._threads: list[JavaThread] = []
        self._names: dict[int, str] = {}

    def read(self) -> Roots:
        """The roots as they are now; what cannot be read is a note."""
        steps = (
            ("static fields", self._take_statics), ("threads", self._take_threads), ("handles", self._take_handles),
            ("stacks", self._take_stacks),
        )  # fmt: skip
        for what, take in steps:
            try:
                take()
            except (UnreadableError, OSError) as error:
                self._found.notes.append(f"{what}: {error}")
        found = self._found
        if self._objects:
            objects, labels = np.concatenate(self._objects), np.concatenate(self._labels)
            found.objects, first = np.unique(objects, return_index=True)
            found.labels = labels[first]
        return found

    def _add(self, root: Root, objects: Addresses) -> None:
        low, high = self._heap
        objects = objects[(objects >= np.uint64(low)) & (objects < np.uint64(high))]
        if len(objects):
            self._found.roots.append(root)
            self._objects.append(objects)
            self._labels.append(np.full(len(objects), len(self._found.roots) - 1, np.int64))

    # ---- static fields ----

    def _take_statics(self) -> None:
        structs, memory = self._vm.structs, self._vm.memory
        mirror_at = structs.field("Klass::_java_mirror")
        count_at = structs.static(
            "java_lang_Class::_static_oop_field_count_offset", "java_lang_Class::static_oop_field_count_offset"
        )
        if mirror_at is None or count_at is None:
            raise UnreadableError("the JVM does not say where they are")
        places = np.array(self._classes.addresses, np.uint64) + np.uint64(mirror_at)
        mirrors = self._words(places)
        if structs.type_of("Klass::_java_mirror") == "OopHandle":
            mirrors = self._words(mirrors)
        order = np.argsort(mirrors, kind="stable")
        order = order[mirrors[order] != 0]
        self._found.mirrors, self._found.mirror_classes = mirrors[order], order.astype(np.int64)
        raw, done = self._pages.scattered(self._found.mirrors + np.uint64(memory.i32(count_at)), 4)
        counts = np.where(done, np.ascontiguousarray(raw).view(np.int32).ravel(), 0).clip(0, _MAX_STATICS)
        first = int(self._classes.helpers[self._classes.class_index]) & ~1
        size = self._layout.reference_bytes
        few = np.flatnonzero((counts > 0) & (counts <= _FEW_STATICS))
        raw, done = self._pages.scattered(self._found.mirrors[few] + np.uint64(first), _FEW_STATICS * size)
        for row, index in enumerate(few.tolist()):
            if done[row]:
                self._take_mirror(index, raw[row, : int(counts[index]) * size].tobytes(), first)
        for index in np.flatnonzero((counts > _FEW_STATICS) | np.isin(np.arange(len(counts)), few[~done])).tolist():
            try:
                start = int(self._found.mirrors[index]) + first
                self._take_mirror(index, memory.read(start, int(counts[index]) * size), first)
            except UnreadableError:
                continue

    def _take_mirror(self, index: int, raw: bytes, first: int) -> None:
        size = self._layout.reference_bytes
        keys = np.frombuffer(raw, np.uint32 if self._layout.is_narrow else np.uint64).astype(np.uint64)
        owner = int(self._found.mirror_classes[index])
        for place in np.flatnonzero(keys).tolist():
            self._add(Root(STATIC, "", owner, first + place * size), self._layout.addresses(keys[place : place + 1]))

    # ---- threads ----

    def _take_threads(self) -> None:
        structs, memory = self._vm.structs, self._vm.memory
        threads = read_thread_list(self._vm)
        thread_at = structs.field("JavaThread::_threadObj")
        is_handle = structs.type_of("JavaThread::_threadObj") == "OopHandle"
        self._threads, names = threads, self._names
        for thread in threads:
            try:
                place = thread.address + thread_at if thread_at is not None else 0
                place = memory.u64(place) if is_handle else place
                found = memory.u64(place)
            except UnreadableError:
                continue
            names[thread.address] = self._name_of(found) or f"tid {thread.tid}"
            self._add(Root(THREAD, names[thread.address]), np.array([found], np.uint64))
        for thread in threads:
            self._take_local_handles(thread, names.get(thread.address, f"tid {thread.tid}"))

    def _name_of(self, thread: int) -> str | None:
        """Name of a java.lang.Thread."""
        try:
            value = self._reference(thread, "java/lang/Thread", "name")
            data = self._reference(value, "java/lang/String", "value")
            coder = self._fields.by_name(self._classes.named("java/lang/String")[0])["coder"]
            memory, at = self._vm.memory, self._layout.length_offset
            n_bytes = min(memory.u32(data + at), _MAX_TEXT)
            helper = int(self._classes.helpers[self._classes.named("[B")[0]])
            raw = memory.read(data + (helper >> 16 & 0xFF), n_bytes)
            return raw.decode("latin-1" if memory.u8(value + coder.offset) == 0 else "utf-16-le", "replace")
        except (UnreadableError, KeyError, IndexError):
            return None

    def _reference(self, address: int, class_name: str, name: str) -> int:
        """The object that a field refers to."""
        found = self._fields.by_name(self._classes.named(class_name)[0])[name]
        memory, place = self._vm.memory, address + found.offset
        key = memory.u32(place) if self._layout.is_narrow else memory.u64(place)
        if not key:
            raise UnreadableError("a null reference")
        return int(self._layout.addresses(np.array([key], np.uint64))[0])

    def _take_local_handles(self, thread: JavaThread, name: str) -> None:
        structs, memory = self._vm.structs, self._vm.memory
        active = structs.field("JavaThread::_active_handles", "Thread::_active_handles")
        handles, top = structs.field("JNIHandleBlock::_handles"), structs.field("JNIHandleBlock::_top")
        following = structs.field("JNIHandleBlock::_next")
        if active is None or handles is None or top is None or following is None:
            return
        found: list[int] = []
        try:
            block = memory.u64(thread.address + active)
            for _ in range(_MAX_HANDLE_BLOCKS):
                if not block:
                    break
                n_used = memory.i32(block + top)
                if 0 < n_used <= _HANDLES_IN_BLOCK:
                    found += np.frombuffer(memory.read(block + handles, 8 * n_used), np.uint64).tolist()
                if n_used < _HANDLES_IN_BLOCK:
                    break
                block = memory.u64(block + following)
        except UnreadableError:
            pass
        if found:
            self._add(Root(HANDLE, f"JNI local of thread {name}"), np.array(found, np.uint64))

    def _take_stacks(self) -> None:
        threads, names = self._threads, self._names
        structs, memory = self._vm.structs, self._vm.memory
        base = structs.field("JavaThread::_stack_base", "Thread::_stack_base")
        size = structs.field("JavaThread::_stack_size", "Thread::_stack_size")
        if base is None or size is None:
            raise UnreadableError("the JVM does not say where stacks are")
        pointers = sorted(_stack_pointers(self._vm.pid))
        n_words = 0
        for thread in threads:
            if names.get(thread.address, "").startswith(_WITHOUT_JAVA):
                continue
            try:
                end, n_bytes = memory.u64(thread.address + base), memory.u64(thread.address + size)
            except UnreadableError:
                continue
            if not 0 < n_bytes <= end:
                continue
            low = max(end - n_bytes, end - _MAX_STACK_BYTES)
            sp = next((each for each in pointers if low <= each < end), low)
            for window in self._pages.windows([(max(low, sp - _RED_ZONE_BYTES) // 8 * 8, end // 8 * 8)]):
                found = window.words
                if self._layout.is_narrow:
                    found = np.concatenate([found, self._layout.addresses(window.halves.astype(np.uint64))])
                lowest, highest = np.uint64(self._heap[0]), np.uint64(self._heap[1])
                found = distinct_in_place(found[(found >= lowest) & (found < highest) & (found & np.uint64(7) == 0)])
                n_words += len(found)
                if n_words > _MAX_STACK_WORDS:
                    raise UnreadableError("the stacks hold too many references: the rest was not read")
                self._add(Root(STACK, names.get(thread.address, f"tid {thread.tid}")), found)

    # ---- handles ----

    def _take_handles(self) -> None:
        storages = self._storages()
        if not storages:
            raise UnreadableError("the JVM does not say where they are")
        for storage in storages:
            try:
                name = self._vm.memory.cstr(self._vm.memory.u64(storage), 64)
            except UnreadableError:
                continue
            if "weak" in name.lower():
                continue
            for objects in self._blocks_of(storage):
                self._add(Root(HANDLE, name), objects)

    def _storages(self) -> list[int]:
        memory, at = self._vm.memory, self._vm.libjvm.address(STORAGES)
        found = []
        if at is not None:
            for index in range(_MAX_STORAGES):
                try:
                    storage = memory.u64(at + 8 * index)
                    memory.cstr(memory.u64(storage), 64)
                except UnreadableError:
                    break
                found.append(storage)
        globals_ = self._vm.pointer("JNIHandles::_global_handles")
        if globals_ is not None and globals_ not in found:
            found.append(globals_)
        return found

    def _blocks_of(self, storage: int) -> list[Addresses]:
        """The references in use of each block of a storage."""
        memory = self._vm.memory
        words = np.frombuffer(memory.read(storage, 8 * _STORAGE_WORDS), np.uint64).tolist()
        for word in words[1:]:
            try:
                size, n_blocks = memory.u64(word), memory.u64(word + 8)
                if not 0 < n_blocks <= size <= _MAX_BLOCKS:
                    continue
                blocks = np.frombuffer(memory.read(word + _ARRAY_HEADER_BYTES, 8 * n_blocks), np.uint64)
            except UnreadableError:
                continue
            raw, done = self._pages.scattered(blocks, _BLOCK_BYTES + 16)
            rows = np.ascontiguousarray(raw).view(np.uint64)
            is_one = done & (rows[:, _BLOCK_REFERENCES + 1] == np.uint64(storage))
            if not is_one.any():
                continue
            bits = np.arange(_BLOCK_REFERENCES, dtype=np.uint64)
            used = (rows[is_one, _BLOCK_REFERENCES, None] >> bits[None, :]) & np.uint64(1) != 0
            return [rows[is_one, :_BLOCK_REFERENCES][used]]
        return []

    def _words(self, addresses: Addresses) -> Addresses:
        """The word at each address, 0 where it cannot be read."""
        raw, _ = self._pages.scattered(addresses, 8)
        return np.ascontiguousarray(raw).view(np.uint64).ravel()


def _stack_pointers(pid: int) -> list[int]:
    """Of the threads that sleep now; source: proc(5), /proc/PID/task/TID/syscall."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return found
    for task in tasks:
        try:
            words = (task / "syscall").read_text().split()
        except OSError:
            continue
        if len(words) >= 3 and words[0] != "running":
            found.append(int(words[-2], 16))
    return found
