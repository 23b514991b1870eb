"""A look at the Java heap of a running process: which objects hold its native blocks.

Scope: the whole of it: ``read_java_holders``. Nothing is stopped, injected or attached; only pages in memory are read.
Collectors that move objects while the program runs (ZGC, Shenandoah) are not read, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from nativeleak.arrays import give_back_free_memory, n_distinct, parts, pick, union
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.runtimes.hotspot.heap.budget import Budget
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.climb import Climber, Edges, Holders
from nativeleak.runtimes.hotspot.heap.collections import count_collections, find_collection_counters
from nativeleak.runtimes.hotspot.heap.fields import FieldReader
from nativeleak.runtimes.hotspot.heap.graph import ORDER, Graph, State
from nativeleak.runtimes.hotspot.heap.kinds import STACK_CHUNK, Kinds
from nativeleak.runtimes.hotspot.heap.layout import read_collector, read_layout
from nativeleak.runtimes.hotspot.heap.matching import Blocks
from nativeleak.runtimes.hotspot.heap.naming import Namer
from nativeleak.runtimes.hotspot.heap.netty import NettyReader
from nativeleak.runtimes.hotspot.heap.objects import ObjectFinder, class_at
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, HeapPages, Numbers
from nativeleak.runtimes.hotspot.heap.parts import FREE, YOUNG, Part, read_parts
from nativeleak.runtimes.hotspot.heap.result import Completeness, JavaHolders
from nativeleak.runtimes.hotspot.heap.roots import STORAGES, RootReader, Roots
from nativeleak.runtimes.hotspot.heap.summary import group_holders
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

_MAX_TRIES: Final = 3
_MOVED_SHARE: Final = 0.05
_DOUBTFUL: Final = [ORDER.index(state) for state in (State.SOFT, State.WEAK, State.CLEANER, State.NONE)]

Progress = Callable[[str], None]


def read_java_holders(
    pid: int,
    starts: Addresses,
    sizes: Addresses,
    budget: Budget | None = None,
    libraries: Libraries = BUILT_IN,
    progress: Progress = lambda _: None,
) -> JavaHolders:
    """Which Java objects hold native blocks of a process.

    Args:
        pid: The process.
        starts: First address of each block that its owner knows (behind the allocator's header), ascending; mappings of
            files, too, where mapped buffers are asked for.
        sizes: Bytes of each.
        budget: What it may cost.
        libraries: Whose classes are walked through; the program's own are the answer.
        progress: Is told what is being done.

    Raises:
        UnreadableError: The process runs no HotSpot JVM, or may not be read.
        NativeleakError: The process is gone, or may not be read.
        ValueError: The blocks are not in order, or of two lengths.
    """
    starts, sizes = np.asarray(starts, np.uint64), np.asarray(sizes, np.uint64)
    if starts.shape != sizes.shape or starts.ndim != 1 or (starts[1:] < starts[:-1]).any():
        raise ValueError("the blocks must be one-dimensional, of one length, and in the order of their addresses")
    blocks = Blocks(starts, sizes)
    with HotSpot.open(pid, (STORAGES,)) as vm, HeapPages(pid) as pages:
        try:
            return _Look(vm, pages, budget or Budget(), libraries, progress).read(blocks)
        except UnreadableError as error:
            try:
                collector = read_collector(vm)
            except UnreadableError:
                collector = ""
            return JavaHolders(collector, not_read=str(error), n_given=len(blocks))


class _Look:
    """One look at one heap."""

    def __init__(self, vm: HotSpot, pages: HeapPages, budget: Budget, libraries: Libraries, progress: Progress) -> None:
        self._vm = vm
        self._pages = pages
        self._budget = budget
        self._progress = progress
        self._layout = read_layout(vm)
        progress("classes")
        self._classes = ClassTable(vm, self._layout)
        self._fields = FieldReader(vm, self._classes)
        self._kinds = Kinds(self._classes, self._fields, libraries)
        self._counters = find_collection_counters(vm)

    def read(self, blocks: Blocks) -> JavaHolders:
        """The holders of some blocks; begun anew where many of them were moved meanwhile."""
        for n_tries in range(1, _MAX_TRIES + 1):
            found, moved_share = self._read(blocks, n_tries)
            if moved_share <= _MOVED_SHARE or found.completeness.cut_short is not None:
                break
        return found

    def _read(self, blocks: Blocks, n_tries: int) -> tuple[JavaHolders, float]:
        """What one try finds, and which share of the holders was moved meanwhile."""
        self._pages.n_absent_bytes = 0
        n_before = count_collections(self._vm, self._counters)
        parts = self._parts()
        climber = Climber(
            self._layout, self._classes, self._kinds, self._finder(parts), self._pages, parts, self._budget
        )
        self._progress("holders of native memory")
        holders = climber.holders(blocks)
        absent = self._pages.n_absent_bytes
        start, classes, n_sampled = self._choose(holders)
        self._progress("static fields, threads and handles")
        roots = self._roots(parts)
        self._progress("what refers to the holders")
        unfollowed = climber.climb(start, roots, self._budget.n_passes - 1)
        graph, edges = self._graph(climber, start, classes, unfollowed, roots)
        parts_now = self._parts()
        has_changed = parts_now != parts or self._since(n_before) != 0
        if has_changed:
            # A referrer may be new, or moved to memory that had been read: nothing is garbage at the first look.
            unfollowed = union(unfollowed, graph.nodes[np.isin(graph.states(graph.nodes), _DOUBTFUL)])
        if len(unfollowed) and climber.cut_short is None:
            del graph, edges  # or there would be two of each
            climber.renew(self._finder(parts_now), parts_now)
            roots = self._roots(parts_now)
            unfollowed = climber.climb(unfollowed, roots, self._budget.n_passes)
            graph, edges = self._graph(climber, start, classes, unfollowed, roots)
        cut_short = climber.cut_short
        if len(unfollowed) and cut_short is None:
            is_spent = climber.n_passes >= self._budget.n_passes
            passes = f"{climber.n_passes} passes over the heap were made"
            cut_short = passes if is_spent else f"{self._budget.n_of_class:,} objects of one class were followed"
        n_collections = self._since(n_before)
        namer = Namer(self._classes, self._fields, self._kinds, roots)
        is_moving = self._moving(holders, parts, blocks, n_collections)
        n_young = n_distinct(holders.objects[is_moving])
        give_back_free_memory()
        groups = group_holders(holders, blocks, graph, namer, is_moving)
        is_held = np.zeros(len(blocks), np.bool_)
        for group in groups:
            is_held[group.blocks] = True
        result = JavaHolders(
            self._layout.collector,
            groups=groups,
            pools=NettyReader(self._pages, self._classes, self._fields, edges, graph).pools(),
            n_blocks=int(is_held.sum()),
            n_bytes=int(blocks.sizes.sum(where=is_held)),
            n_given=len(blocks),
            completeness=Completeness(
                heap_bytes=climber.heap_bytes,
                absent_bytes=absent,
                n_passes=climber.n_passes,
                n_tries=n_tries,
                n_collections=n_collections,
                n_rejected=holders.n_rejected,
                n_unresolved=climber.n_unresolved,
                n_unfollowed=len(unfollowed),
                n_sampled=n_sampled,
                n_young=n_young,
                cut_short=cut_short,
                notes=(*roots.notes, *self._class_notes()),
            ),
        )
        return result, float(is_moving.mean()) if len(is_moving) else 0.0

    def _choose(self, holders: Holders) -> tuple[Addresses, Numbers, int]:
        """(objects, classes, number if it is a sample) of those to follow; each row gets the one that stands for it."""
        is_new = np.ones(len(holders.objects), np.bool_)
        np.not_equal(holders.objects[1:], holders.objects[:-1], out=is_new[1:])
        holders.followed, classes = holders.objects[is_new], holders.classes[is_new]
        holders.likeness = np.cumsum(is_new, dtype=np.int32) - np.int32(1)
        if len(classes) <= self._budget.n_holders:
            return holders.followed, classes, 0
        # Evenly from each class in the order of addresses: neighbours were made together.
        order = np.argsort(classes, kind="stable").astype(np.int32)
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = np.diff(pick(classes, order)) != 0
        places = np.arange(len(order), dtype=np.int32)
        is_chosen = is_first | (places % np.int32(-(-len(order) // self._budget.n_holders)) == 0)
        places = pick(order, np.maximum.accumulate(np.where(is_chosen, places, np.int32(0))))
        is_followed = np.zeros(len(order), np.bool_)
        is_followed[order[is_chosen]] = True
        stands = np.empty(len(order), np.int32)
        stands[order] = pick(np.cumsum(is_followed, dtype=np.int32) - np.int32(1), places)
        holders.likeness, holders.followed = pick(stands, holders.likeness), holders.followed[is_followed]
        return holders.followed, classes[is_followed], len(holders.followed)

    def _graph(
        self, climber: Climber, start: Addresses, classes: Numbers, unfollowed: Addresses, roots: Roots
    ) -> tuple[Graph, Edges]:
        edges = climber.edges()
        return Graph(edges, start, classes, unfollowed, roots, self._classes, self._kinds), edges

    def _since(self, n_before: int | None) -> int | None:
        """Collections since a count; None if unknown."""
        n_after = count_collections(self._vm, self._counters)
        return n_after - n_before if n_before is not None and n_after is not None else None

    def _parts(self) -> list[Part]:
        """The parts of the heap in use, as they are now."""
        self._vm.refresh()
        parts = [part for part in read_parts(self._vm, self._layout.collector) if part.kind != FREE]
        if not parts:
            raise UnreadableError("the Java heap is empty")
        return parts

    def _finder(self, parts: list[Part]) -> ObjectFinder:
        chunk = next(iter(self._classes.named(STACK_CHUNK)), None)
        size = self._fields.by_name(chunk).get("size") if chunk is not None else None
        stack_chunk = (chunk, size.offset) if chunk is not None and size is not None else None
        return ObjectFinder(self._layout, self._classes, parts, self._pages, self._mirror_size(), stack_chunk)

    def _roots(self, parts: list[Part]) -> Roots:
        heap = parts[0].start, max(part.top for part in parts)
        return RootReader(self._vm, self._pages, self._layout, self._classes, self._fields, heap).read()

    def _mirror_size(self) -> int | None:
        place = self._vm.structs.static("java_lang_Class::_oop_size_offset", "java_lang_Class::oop_size_offset")
        try:
            offset = self._vm.memory.i32(place) if place is not None else 0
        except UnreadableError:
            return None
        return offset if 0 < offset < 1 << 12 else None

    def _moving(self, holders: Holders, old: list[Part], blocks: Blocks, n_collections: int | None) -> Flags:
        """Rows whose object was young while collections ran, or is not there any more."""
        is_moving = np.zeros(len(holders.objects), np.bool_)
        if n_collections == 0:
            return is_moving
        new = None
        try:
            self._vm.refresh()
            new = read_parts(self._vm, self._layout.collector)
        except UnreadableError:
            pass
        for part in parts(len(is_moving)):
            objects, of_rows = holders.objects[part], holders.blocks[part]
            is_young = _are_young(new, objects) if new is not None else np.ones(len(objects), np.bool_)
            words, done = self._pages.scattered(objects + holders.offsets[part].astype(np.uint64), 8)
            values = np.ascontiguousarray(words).view(np.uint64).ravel()
            points = done & (values - blocks.starts[of_rows] < blocks.sizes[of_rows])
            heads, _ = self._pages.scattered(objects, 16)
            is_same = class_at(self._layout, self._classes, heads) == holders.classes[part]
            is_moving[part] = _are_young(old, objects) | is_young | ~points | ~is_same
        return is_moving

    def _class_notes(self) -> list[str]:
        notes = []
        if self._classes.n_broken:
            notes.append(f"{self._classes.n_broken} lists of classes could not be read to their end")
        if self._fields.n_unread:
            notes.append(f"the fields of {self._fields.n_unread} classes could not be read")
        return notes


def _are_young(parts: list[Part], objects: Addresses) -> Flags:
    """Whether each object lies in a young part, or in none that is in use."""
    starts = np.array([part.start for part in parts], np.uint64)
    tops = np.array([part.top for part in parts], np.uint64)
    is_young = np.array([part.kind in YOUNG or part.kind == FREE for part in parts], np.bool_)
    index = np.maximum(np.searchsorted(starts, objects, side="right") - 1, 0)
    return np.asarray(is_young[index] | (objects >= tops[index]), np.bool_)
