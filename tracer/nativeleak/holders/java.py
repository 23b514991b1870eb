"""A JVM's objects as holders of native blocks: the source of edges for processes that run HotSpot.

Scope: joins the look at the Java heap (``runtimes.hotspot.heap``) to the blocks that the allocators' walks find. The
heap is looked at once; its words are also read by each scan, so that a block of an object that was born later is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from nativeleak.arrays import give_back_free_memory
from nativeleak.errors import NativeleakError
from nativeleak.frames.libraries import BUILT_IN, Libraries
from nativeleak.heaps.memory import HeapMemory, Words
from nativeleak.holders.heap_table import name_ranges, read_table
from nativeleak.holders.labels import Label
from nativeleak.holders.places import JAVA
from nativeleak.process.procfs import MapEntry, read_exe, read_maps
from nativeleak.runtimes.hotspot.heap.budget import Budget
from nativeleak.runtimes.hotspot.heap.read import read_java_holders
from nativeleak.runtimes.hotspot.heap.result import HolderGroup, JavaHolders
from nativeleak.runtimes.hotspot.heap.text import STATE_WORDS, way_text
from nativeleak.runtimes.hotspot.memory import UnreadableError

KIND: Final = "java-class"
_LIBRARY: Final = "/libjvm.so"
_CODE: Final = (".so", ".jar", ".jsa", "/modules")


def runs_java(maps: Sequence[MapEntry]) -> bool:
    """Whether a process has HotSpot mapped."""
    return any(entry.path.endswith(_LIBRARY) for entry in maps)


class JavaSource:
    """What Java objects point at, found at the first question.

    Args:
        memory: Of the process.
        seconds: What the look may take.
        say: Takes a line about progress.
        libraries: Whose classes are no answer.

    Attributes:
        ranges: None: the Java heap is read word by word too.
        kind: Of the Java heap's places.
        found: The look; None before the first question, and where the JVM cannot be read.
        why_not: Why it cannot, for people; empty where it can.
    """

    def __init__(
        self,
        memory: HeapMemory,
        seconds: float,
        say: Callable[[str], None] = lambda _text: None,
        libraries: Libraries = BUILT_IN,
    ) -> None:
        self.ranges: Sequence[tuple[int, int]] = ()
        self.kind = JAVA
        self.found: JavaHolders | None = None
        self.why_not = ""
        self._memory = memory
        self._seconds = seconds
        self._say = say
        self._libraries = libraries
        self._edges: list[tuple[Label, Words]] | None = None

    def look(self) -> None:
        """Look at the Java heap now, while the arrays of a scan take no memory."""
        if self._edges is None:
            self._edges = self._look()
            give_back_free_memory()

    def edges(self) -> Iterator[tuple[Label, Words]]:
        """A label for each way in which objects hold blocks, and the blocks' addresses."""
        self.look()
        yield from self._edges or []

    def _look(self) -> list[tuple[Label, Words]]:
        pid = self._memory.pid
        try:
            maps = read_maps(pid)
            starts, sizes = self._blocks(maps)
            self.found = read_java_holders(
                pid,
                starts,
                sizes,
                Budget(seconds=self._seconds),
                self._libraries,
                lambda what: self._say(f"Java heap: {what}"),
            )
        except (UnreadableError, NativeleakError) as error:
            self.why_not = str(error)
            return []
        return [(_label(group), starts[group.blocks]) for group in self.found.groups]

    def _blocks(self, maps: Sequence[MapEntry]) -> tuple[Words, Words]:
        """First address and bytes of each block."""
        table = read_table(self._memory, maps, read_exe(self._memory.pid), name_ranges(self._memory, maps, [])).table
        return _with_files(table.starts, table.ends - table.starts, maps)


def _with_files(starts: Words, sizes: Words, maps: Sequence[MapEntry]) -> tuple[Words, Words]:
    """Blocks, and mapped files of data, which mapped buffers hold; in the order of their addresses."""
    files = [entry for entry in maps if entry.inode and "x" not in entry.perms and not entry.path.endswith(_CODE)]
    firsts = np.array([entry.start for entry in files], np.uint64)
    at = np.searchsorted(starts, firsts, side="right")
    return np.insert(starts, at, firsts), np.insert(
        sizes, at, np.array([entry.end for entry in files], np.uint64) - firsts
    )


def _label(group: HolderGroup) -> Label:
    """The program's own field where there is one, else the class that holds the address."""
    state = STATE_WORDS.get(group.state, "")
    name = group.owner or group.root or group.holder
    shown = name if name.startswith("JNI ") else f"Java {name}"
    return Label(KIND, f"{state}: {group.holder}" if state else shown, way_text(group))
