"""The blocks of all allocators of a process in one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.glibc.walk import walk_glibc
from nativeleak.heaps.jemalloc import has_jemalloc, walk_jemalloc
from nativeleak.heaps.memory import HeapError, HeapMemory
from nativeleak.heaps.musl import has_musl, walk_musl
from nativeleak.heaps.python import find_pools, has_python
from nativeleak.holders.places import ANONYMOUS, JAVA, Named
from nativeleak.holders.table import BlockTable, make_table
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.spaces import HEAP, SPACE_VARIABLES, read_spaces
from nativeleak.runtimes.hotspot.version import find_libjvm

_OTHER: Final = re.compile(r"/lib(tcmalloc|mimalloc|tbbmalloc|hoard)[^/]*$")
_PYTHON: Final = "Python objects"
_FAILED: Final = "walking the heap failed"
_JVM_PARTS: Final = {
    "metaspace": "metaspace of the JVM",
    "class-space": "class space of the JVM",
    "code-cache": "code cache of the JVM",
    "collector": "tables of the JVM's collector",
    "cds": "class archive of the JVM",
}


@dataclass(slots=True)
class HeapTable:
    """The blocks, and what is known of other memory.

    Attributes:
        table: Blocks in use of all allocators.
        walks: What each walk counted.
        taken: (start, end) of allocators' memory and tables: no root is there.
        unread: (start, end) of allocators' memory that could not be read as blocks: each word of it is a root.
        notes: What could not be read.
    """

    table: BlockTable
    walks: list[HeapWalk] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    unread: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(memory: HeapMemory, maps: Sequence[MapEntry], exe: str, named: Iterable[Named]) -> HeapTable:
    """Walk every allocator that is known.

    Args:
        memory: Of the process.
        maps: Its mappings.
        exe: Path of its executable.
        named: Ranges that belong to somebody else.

    Raises:
        HeapError: None could be walked.
    """
    notes: list[str] = []
    lists: list[BlockList] = []
    walks: list[HeapWalk] = []

    def tried(walk: Callable[[BlockList], HeapWalk]) -> bool:
        blocks = BlockList()
        try:
            walks.append(walk(blocks))
        except HeapError as error:
            notes.append(error.what)
            return False
        lists.append(blocks)
        return True

    notes += [f"{name} is mapped; it is not walked" for name in sorted(_others(maps))]
    # Blocks with mappings of their own lie among CPython's arenas.
    owned = [(each.start, each.end) for each in named if each.name != _PYTHON]
    if has_jemalloc(maps):
        tried(lambda blocks: walk_jemalloc(memory, maps, blocks))
    own = sorted([*owned, *(span for each in lists for span in each.spans)])
    if has_musl(maps) or (not tried(lambda blocks: walk_glibc(memory, maps, exe, own, blocks)) and not walks):
        tried(lambda blocks: walk_musl(memory, maps, blocks))
    if walks:
        notes = [note for note in notes if not note.startswith(_FAILED)]
    else:
        raise HeapError(f"{_FAILED}: " + ("; ".join(notes) or "no allocator was found"))
    parts = [each.take() for each in lists]
    starts, ends = parts[0] if len(parts) == 1 else (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    if len(parts) > 1:
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    spans = [span for each in lists for span in each.spans]
    table = make_table(starts, ends, spans, max(each.link_offset for each in lists))
    headers = [header for each in lists for header in each.headers]
    notes += [note for walk in walks for note in walk.notes]
    unread = [each for blocks in lists for each in blocks.unread]
    return HeapTable(table, walks, [*spans, *headers], unread, notes)


def _others(maps: Sequence[MapEntry]) -> set[str]:
    return {match[1] for entry in maps if (match := _OTHER.search(entry.path))}


def name_ranges(memory: HeapMemory, maps: Sequence[MapEntry], notes: list[str]) -> list[Named]:
    """What runtimes of managed code say of their memory: the JVM's parts, CPython's arenas."""
    found: list[Named] = []
    if find_libjvm(maps) is not None:
        try:
            with HotSpot.open(memory.pid, SPACE_VARIABLES) as vm:
                spaces = read_spaces(vm)
        except UnreadableError as error:
            notes.append(f"the JVM's memory has no names: {error}")
        else:
            for start, end, line, _ in spaces.ranges:
                kind, name = (JAVA, "Java heap") if line == HEAP else (ANONYMOUS, _JVM_PARTS.get(line, line))
                found.append(Named(start, end, kind, name))
    if has_python(maps):
        anonymous = [(entry.start, entry.end) for entry in maps if entry.perms == "rw-p" and not entry.path]
        pools = (each for each in anonymous if find_pools(memory, *each) is not None)
        found += [Named(start, end, ANONYMOUS, _PYTHON) for start, end in pools]
    return found
