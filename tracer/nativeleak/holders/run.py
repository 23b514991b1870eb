"""The look: scans, what they agree on, who holds the rest.

Scope: order and limits. Four scans a second apart unless another number is asked for; time or bytes used up end it
early with what is known by then, and lost blocks are only said of whole scans.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from nativeleak.errors import NativeleakError
from nativeleak.heaps.known import known_as
from nativeleak.heaps.memory import WORD_BYTES, Flags, HeapError, HeapMemory
from nativeleak.holders.attribution import count_classes, find_holders
from nativeleak.holders.classes import Classes, find_classes
from nativeleak.holders.grades import graded
from nativeleak.holders.heap_table import HeapTable, name_ranges, read_table
from nativeleak.holders.helper import Helper, find_helper
from nativeleak.holders.hidden import find_compressed, find_xor_lists
from nativeleak.holders.hints import KnownSizes
from nativeleak.holders.java import JavaSource, runs_java
from nativeleak.holders.labels import Labels
from nativeleak.holders.lost import (
    LOST,
    Candidates,
    first_candidates,
    has_lost_blocks,
    keep_what_is_in_use,
    narrow,
    reach,
    refute,
)
from nativeleak.holders.own_memory import give_back_freed_arrays
from nativeleak.holders.places import ANONYMOUS, Named, Place, find_places
from nativeleak.holders.result import HoldersReport
from nativeleak.holders.scan import EdgeSource, Limits, Scan, Scanner
from nativeleak.holders.threads import ThreadReader, read_kernel_words
from nativeleak.holders.traits import find_trait_objects, find_trait_tables
from nativeleak.holders.windows import Reader
from nativeleak.process.check import TargetFacts, check_target
from nativeleak.process.procfs import MapEntry, read_maps, read_status

if TYPE_CHECKING:
    from nativeleak.holders.recorded import RecordedTarget

DEFAULT_SCANS: Final = 4
DEFAULT_BUDGET_S: Final = 60.0
_GAP_S: Final = 1.0
_JAVA_SHARE: Final = 0.5
"""Of the time, for the look at a Java heap."""
_HIDDEN_S_A_GIB: Final = 6.0
_PACKED_STEP: Final = 4
_WALKS_AT_END: Final = 10
_WALK_GAP_S: Final = 0.03
_WATCH_GAP_S: Final = 0.02
_WATCH_AT_END_S: Final = 0.3
_WATCH_SHARE: Final = 0.25
"""Of the time between scans, for reading contents."""
_MAX_MORE_SCANS: Final = 4
_GLIBC: Final = "glibc"
_WALK_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Options:
    """How to look.

    Attributes:
        n_scans: Scans that have to agree.
        budget_s: Seconds in all.
        max_read_bytes: Bytes read in all; 0: as many as it takes.
        step: Bytes between places of pointers; 0: 8, and 4 in the last scan, for packed structures.
        gap_s: Seconds between two scans.
        say: Takes a line about progress.
        with_java: Ask which objects of a JVM hold blocks.
        recording: Of the process, with the addresses of its blocks: what its call paths lost is said.
        with_causes: Say it by finding of the recording too, and not only by site.
        sources: Makes other sources of edges for an open process, such as its Java heap; see ``scan.EdgeSource``.
    """

    n_scans: int = DEFAULT_SCANS
    budget_s: float = DEFAULT_BUDGET_S
    max_read_bytes: int = 0
    step: int = 0
    gap_s: float = _GAP_S
    say: Callable[[str], None] = lambda _text: None
    with_java: bool = True
    sources: Sequence[Callable[[HeapMemory], EdgeSource]] = ()
    recording: Path | None = None
    with_causes: bool = True


@dataclass(slots=True)
class _Look:
    """One look under way."""

    target: TargetFacts
    options: Options
    helper: Helper
    memory: HeapMemory
    threads: ThreadReader
    report: HoldersReport
    limits: Limits
    sources: list[EdgeSource] = field(default_factory=list)
    heap: HeapTable | None = None
    named: list[Named] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    skipped_hidden: bool = False
    recorded: RecordedTarget | None = None
    n_walked: int = 0

    def run(self) -> None:
        """Scan, and fill the report."""
        options, seen = self.options, self.report.completeness
        maps = read_maps(self.target.pid)
        self.named = name_ranges(self.memory, maps, self.report.notes)
        labels = Labels(self.target.pid, maps)
        scanner = Scanner(self.memory, labels, self.helper, self.sources)
        candidates: Candidates | None = None
        last: Scan | None = None
        number, n_before = 0, 0
        while number < options.n_scans or self._wants_more(number, candidates, n_before, last):
            if number and not self._may_go_on(last):
                break
            self.limits.say = lambda done, total, n=number: options.say(  # type: ignore[misc]
                f"scan {n + 1} of {max(n + 1, options.n_scans)}: {done >> 20:,} of {total >> 20:,} MiB"
            )
            scanner.step = options.step or self._step(number)
            scan = self._scan(scanner)
            if not scan.is_complete:
                last = last or scan
                break
            last = scan  # and the one before goes
            reached = reach(scan, self.helper)
            if candidates is None:
                candidates = first_candidates(scan, reached, scanner.reader)
            else:
                n_before = candidates.n_taken_back
                narrow(candidates, scan, reached)
            seen.n_scans += 1
            number += 1
            scan.graph.rest()
            self._watch(candidates, scanner.reader, options.gap_s if number < options.n_scans else _WATCH_AT_END_S)
            self._walk_again(candidates, 1 if number < options.n_scans else _WALKS_AT_END)
        if last is None:
            raise HeapError("scanning failed: nothing could be read")
        self._fill(last, self._classes(maps, last, scanner), labels, candidates, scanner)

    def _classes(self, maps: Sequence[MapEntry], last: Scan, scanner: Scanner) -> Classes:
        """Types of the blocks: of C++ by first words, of Rust by fat pointers."""
        classes = find_classes(self.memory, maps, last.first_words)
        tables = find_trait_tables(self.memory, maps)
        n_bytes = self.report.completeness.read_bytes + last.n_bytes
        if tables is None or n_bytes > self.limits.max_bytes or self.limits.is_over(0):
            return classes
        return find_trait_objects(tables, last.table, scanner.reader, scanner.ranges(last.table, self.places), classes)

    def _step(self, number: int) -> int:
        """Bytes between places of pointers in a scan.

        The last scans see packed structures too: what any scan reaches is not lost. The last of four comes after one
        that saw them, so that it takes back only what moves.
        """
        n_wide = self.options.n_scans - (2 if self.options.n_scans >= DEFAULT_SCANS else 1)
        return WORD_BYTES if number < n_wide else _PACKED_STEP

    def _wants_more(self, number: int, candidates: Candidates | None, n_before: int, last: Scan | None) -> bool:
        """Whether the scans have not settled: the last one, or what came after it, took blocks back."""
        if candidates is None or last is None or not DEFAULT_SCANS <= number < self.options.n_scans + _MAX_MORE_SCANS:
            return False
        n_unsettled = candidates.n_taken_back - n_before
        self.report.completeness.n_unsettled = n_unsettled
        left_s = self.limits.deadline - time.monotonic()
        return n_unsettled > 0 and left_s > 2 * last.seconds + _HIDDEN_S_A_GIB * last.n_bytes / (1 << 30)

    def _watch(self, candidates: Candidates, reader: Reader, seconds: float) -> None:
        """Wait for some time, and leave out blocks that are written to meanwhile."""
        end = min(time.monotonic() + seconds, self.limits.deadline)
        cost_s = 0.0
        while (left_s := end - time.monotonic()) > 0:
            time.sleep(min(left_s, max(_WATCH_GAP_S, cost_s * (1 / _WATCH_SHARE - 1))))
            began = time.monotonic()
            refute(candidates, reader)
            cost_s = time.monotonic() - began

    def _walk_again(self, candidates: Candidates, n_times: int) -> None:
        """Leave out blocks that are freed by now, where the allocator writes nothing into a block that it takes back.

        A block that is used and freed all the time is else in use at each walk and free at each scan, by chance.
        """
        if self.heap is None or all(walk.kind == _GLIBC for walk in self.heap.walks):
            return
        for _ in range(n_times):
            if not len(candidates) or self.limits.is_over(0):
                return
            time.sleep(_WALK_GAP_S)
            maps = read_maps(self.target.pid)
            keep_what_is_in_use(candidates, read_table(self.memory, maps, self.target.exe, self.named).table)

    def _may_go_on(self, last: Scan | None) -> bool:
        """Whether another whole scan fits."""
        cost_s, n_bytes = (last.seconds, last.n_bytes) if last is not None else (0.0, 0)
        left_s = self.limits.deadline - time.monotonic()
        return left_s > 1.5 * cost_s and self.report.completeness.read_bytes + n_bytes <= self.limits.max_bytes

    def _scan(self, scanner: Scanner) -> Scan:
        seen, notes = self.report.completeness, self.report.notes
        for attempt in range(_WALK_TRIES):
            began = time.monotonic()
            maps = read_maps(self.target.pid)
            heap = read_table(self.memory, maps, self.target.exe, self.named)
            if attempt < _WALK_TRIES - 1 and has_lost_blocks(self.n_walked, len(heap.table)):
                continue
            break
        self.n_walked, self.heap = len(heap.table), heap
        notes += [note for note in heap.notes if note not in notes]
        threads = self.threads.read()
        covered = [span for source in self.sources for span in source.ranges]
        places = find_places(maps, threads, self.named, [*heap.taken, *covered])
        places += [Place(start, end, ANONYMOUS, "heap that could not be walked") for start, end in heap.unread]
        self.places = places
        words = read_kernel_words(self.target.pid)
        scan = scanner.scan(heap.table, places, threads, words, self.limits)
        seen.sees_registers = not self.threads.why_no_registers
        seen.read_bytes += scan.n_bytes
        seen.missed_bytes = scan.n_missed_bytes
        seen.last_scan_s = time.monotonic() - began
        scan.seconds = seen.last_scan_s
        return scan

    def _fill(
        self,
        last: Scan,
        classes: Classes,
        labels: Labels,
        candidates: Candidates | None,
        scanner: Scanner,
    ) -> None:
        report, seen, heap = self.report, self.report.completeness, self.heap
        assert heap is not None  # noqa: S101 - a scan was made
        seen.n_blocks, seen.n_bytes = len(last.table), int(last.table.sizes.sum())
        seen.n_edges, seen.n_roots = last.graph.n_edges, len(last.roots)
        seen.unwalked_bytes = sum(walk.total.unread_bytes for walk in heap.walks)
        seen.swapped_bytes = int(read_status(self.target.pid).get("VmSwap", "0").split()[0]) * 1024
        report.allocators = [(walk.kind, walk.object) for walk in heap.walks]
        self.options.say("who holds what")
        report.holders, owners = find_holders(last, labels, self.helper)
        held = sum(holder.n_bytes for holder in report.holders)
        report.unreached_bytes = seen.n_bytes - held
        if candidates is None:
            report.why_not_lost = "no whole scan was made: raise --budget or --max-read"
        else:
            seen.refuted, seen.n_freed = dict(candidates.refuted), candidates.n_freed
            is_hidden = self._find_hidden(candidates, last, scanner)
            known_sizes = self._known_sizes(report.allocators[0][0])
            report.lost = graded(candidates, is_hidden, last, classes, scanner, self._doubts(), known_sizes)
        if self.recorded is not None:
            lost = report.grade(LOST)
            names = [labels[number].name for number in range(len(labels))]
            from nativeleak.holders.recorded import join, read_recorded

            report.recorded = read_recorded(self.recorded)
            starts = np.array(lost.starts if lost is not None else (), np.uint64)
            report.fates = join(report.recorded, last.table, owners, names, starts)
        is_lost = np.zeros(len(last.table), np.bool_)
        if candidates is not None:
            index = last.table.look(candidates.starts[~candidates.is_leftover])
            is_lost[index[index >= 0]] = True
        report.classes = count_classes(last, classes, self.helper, is_lost, self.limits.deadline)

    def _find_hidden(self, candidates: Candidates, last: Scan, scanner: Scanner) -> Flags:
        """Which lost blocks other words fit than addresses."""
        starts, ends = candidates.starts, candidates.ends
        if not len(starts) or not last.is_complete:
            return np.zeros(len(starts), np.bool_)
        self.options.say("pointers in other forms")
        strong = reach(last, self.helper).strong
        found = find_xor_lists(last.table, last.graph, strong, scanner.reader, starts, self.limits.deadline)
        n_bytes = self.report.completeness.read_bytes + last.n_bytes
        left_s = self.limits.deadline - time.monotonic()
        if n_bytes > self.limits.max_bytes or left_s < _HIDDEN_S_A_GIB * last.n_bytes / (1 << 30):
            self.skipped_hidden = True
            return found
        mapped = [(entry.start, entry.end) for entry in read_maps(self.target.pid)]
        ranges = scanner.ranges(last.table, self.places)
        return found | find_compressed(scanner.reader, ranges, starts, ends, mapped)

    def _known_sizes(self, allocator: str) -> KnownSizes:
        """What sizes are known for in this process; sizes of other allocators than glibc say nothing."""
        if allocator != _GLIBC:
            return lambda _: None
        return functools.partial(known_as, in_java=runs_java(read_maps(self.target.pid)))

    def _doubts(self) -> list[str]:
        """What keeps lost blocks from being proven."""
        seen = self.report.completeness
        doubts = []
        if seen.n_scans < DEFAULT_SCANS:
            doubts.append(f"only {seen.n_scans} scan{'s' if seen.n_scans != 1 else ''}")
        if seen.n_unsettled:
            doubts.append(f"the last scan still took {seen.n_unsettled:,} back")
        if seen.swapped_bytes:
            doubts.append(f"{seen.swapped_bytes >> 10:,} KiB are swapped out and were not read")
        if self.skipped_hidden:
            doubts.append("no time was left to look for compressed pointers")
        if not seen.sees_registers:
            doubts.append("registers of sleeping threads could not be read")
        return doubts


def find_who_holds(pid: int, options: Options | None = None) -> HoldersReport:
    """Look at a process.

    Raises:
        NativeleakError: There is no such process, it may not be read, or its heap cannot be walked.
    """
    chosen = options or Options()
    began = time.monotonic()
    give_back_freed_arrays()
    target = check_target(pid)
    report = HoldersReport(target)
    seen = report.completeness
    helper = find_helper()
    seen.helper, seen.wanted_scans = helper.name, chosen.n_scans
    limits = Limits(began + chosen.budget_s, chosen.max_read_bytes or 1 << 62)
    with ExitStack() as stack:
        memory = stack.enter_context(HeapMemory(pid))
        threads = stack.enter_context(ThreadReader(pid))
        sources: list[EdgeSource] = []
        for make in chosen.sources:
            try:
                sources.append(make(memory))
            except NativeleakError as error:
                report.notes.append(error.what)
        java = None
        if chosen.with_java and runs_java(read_maps(pid)):
            java = JavaSource(memory, chosen.budget_s * _JAVA_SHARE, chosen.say)
            java.look()
            sources.append(java)
        look = _Look(target, chosen, helper, memory, threads, report, limits, sources)
        if chosen.recording is not None:
            from nativeleak.holders.recorded import find_recorded

            look.recorded = find_recorded(chosen.recording, target)
        look.run()
        if java is not None:
            report.java = java.found
            report.notes += [f"the Java heap was not read: {java.why_not}"] if java.why_not else []
    if chosen.recording is not None and chosen.with_causes:
        from nativeleak.holders.recorded import find_causes

        report.traced = find_causes(chosen.recording, report.fates)
    seen.seconds = time.monotonic() - began
    return report
