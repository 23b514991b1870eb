"""A look at the Java heap of a running process: which objects hold its native blocks.

Scope: the whole of it: ``read_java_holders``. Nothing is stopped, injected or attached; only pages in memory are read.
Collectors that move objects while the program runs (ZGC, Shenandoah) are not read, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

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
        start, classes, n_sampled, holders.likeness = self._chosen(holders)
        self._progress("static fields, threads and handles")
        roots = self._roots(parts)
        self._progress("what refers to the holders")
        unfollowed = climber.climb(start, roots, self._budget.n_passes - 1)
        graph, edges = self._graph(climber, start, classes, unfollowed, roots)
        parts_now = self._parts()
        has_changed = parts_now != parts or self._since(n_before) != 0
        if has_changed:
            # A referrer may be new, or moved to memory that had been read: nothing is garbage at the first look.
            unfollowed = np.union1d(unfollowed, graph.nodes[np.isin(graph.states(graph.nodes), _DOUBTFUL)])
        if len(unfollowed) and climber.cut_short is None:
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
        groups = group_holders(holders, blocks, graph, namer, is_moving)
        held = np.unique(np.concatenate([group.blocks for group in groups])) if groups else np.zeros(0, np.int64)
        result = JavaHolders(
            self._layout.collector,
            groups=groups,
            pools=NettyReader(self._pages, self._classes, self._fields, edges, graph).pools(),
            n_blocks=len(held),
            n_bytes=int(blocks.sizes[held].sum()),
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
                n_young=int(np.unique(holders.objects[is_moving]).size),
                cut_short=cut_short,
                notes=(*roots.notes, *self._class_notes()),
            ),
        )
        return result, float(is_moving.mean()) if len(is_moving) else 0.0

    def _chosen(self, holders: Holders) -> tuple[Addresses, Numbers, int, Addresses]:
        """(objects, classes, number if it is a sample) of those to follow, and the one that stands for each row."""
        objects, first = np.unique(holders.objects, return_index=True)
        classes = holders.classes[first]
        if len(objects) <= self._budget.n_holders:
            return objects, classes, 0, holders.objects
        # Evenly from each class in the order of addresses: neighbours were made together.
        order = np.lexsort((objects, classes))
        step = -(-len(objects) // self._budget.n_holders)
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = np.diff(classes[order]) != 0
        is_chosen = is_first | (np.arange(len(order)) % step == 0)
        stands = order[np.maximum.accumulate(np.where(is_chosen, np.arange(len(order)), 0))]
        like = np.zeros(len(objects), np.uint64)
        like[order] = objects[stands]
        chosen = np.sort(order[is_chosen])
        likeness = like[np.searchsorted(objects, holders.objects)]
        return objects[chosen], classes[chosen], len(chosen), likeness

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

    def _moving(self, holders: Holders, parts: list[Part], blocks: Blocks, n_collections: int | None) -> Flags:
        """Rows whose object was young while collections ran, or is not there any more."""
        if n_collections == 0:
            return np.zeros(len(holders.objects), np.bool_)
        was_young, is_young = _are_young(parts, holders.objects), np.ones(len(holders.objects), np.bool_)
        try:
            self._vm.refresh()
            is_young = _are_young(read_parts(self._vm, self._layout.collector), holders.objects)
        except UnreadableError:
            pass
        words, done = self._pages.scattered(holders.objects + holders.offsets.astype(np.uint64), 8)
        values = np.ascontiguousarray(words).view(np.uint64).ravel()
        starts = blocks.starts[holders.blocks]
        points = done & (values >= starts) & (values < starts + blocks.sizes[holders.blocks])
        heads, _ = self._pages.scattered(holders.objects, 16)
        is_same = class_at(self._layout, self._classes, heads) == holders.classes
        return np.asarray(was_young | is_young | ~points | ~is_same, np.bool_)

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
