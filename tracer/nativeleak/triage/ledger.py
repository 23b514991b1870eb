"""Makes the ledger: every resident page of a process in exactly one line.

Scope: one reading of a process that runs. The kernel's list of mappings gives the sum; owners known from the JVM, from
allocators and from threads cut it into pieces; the largest piece of a mapping takes what is left, so that the lines add
up.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.heaps.census import TABLES, HeapWalk
from nativeleak.heaps.glibc.walk import walk_glibc
from nativeleak.heaps.go import find_arenas, has_libc
from nativeleak.heaps.jemalloc import has_jemalloc, walk_jemalloc
from nativeleak.heaps.memory import HeapError, HeapMemory
from nativeleak.heaps.musl import has_musl, walk_musl
from nativeleak.heaps.python import find_pools, has_python
from nativeleak.heaps.v8 import find_chunks, has_v8
from nativeleak.process import procfs
from nativeleak.process.cgroups import read_memory_groups
from nativeleak.process.charges import read_charges
from nativeleak.process.check import TargetFacts, check_target
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.spaces import SPACE_VARIABLES, JavaSpaces, read_spaces
from nativeleak.runtimes.hotspot.statics import NativeCounts, read_native_counts
from nativeleak.runtimes.hotspot.threads import ThreadNamer
from nativeleak.runtimes.hotspot.version import find_libjvm
from nativeleak.triage.inside import look_inside, read_rlimits
from nativeleak.triage.lines import LABELS, Ledger, Line, Piece
from nativeleak.triage.owners import Owners
from nativeleak.triage.regions import Region, read_regions
from nativeleak.triage.rest import Neighbours
from nativeleak.triage.stacks import find_stacks, read_stack_pointers

_DRIFT: Final = 0.01
_TRIES: Final = 3
_MALLOC: Final = "malloc-live"
_MAX_DETAIL: Final = 20
_GO_TABLES: Final = ("go", "tables of the runtime")
_OTHER_ALLOCATOR: Final = re.compile(r"/lib(tcmalloc|mimalloc|tbbmalloc|hoard)[^/]*$")


def read_ledger(pid: int, n_tries: int = _TRIES) -> Ledger:
    """Read a process; again, up to three times, while its memory changes by more than 1 %.

    Args:
        pid: The process.
        n_tries: At most so many readings; with one, a change is not noted.

    Raises:
        NativeleakError: There is no such process, or it may not be read.
    """
    target = check_target(pid, any_width=True)
    for attempt in range(n_tries):
        ledger = _read(target)
        before, after = ledger.status_rss
        if abs(after - before) <= _DRIFT * max(before, 1):
            break
        if attempt == n_tries - 1 > 0:
            ledger.notes.append(f"resident memory changed by {after - before:+,} bytes during the reading")
    return ledger


def prepare(pid: int) -> None:
    """Read what is read once of a process's files, such as the symbols of libjvm.so, so that readings cost the same.

    Raises:
        NativeleakError: There is no such process any more, or it may not be read.
    """
    if find_libjvm(procfs.read_maps(pid)) is not None:
        with contextlib.suppress(UnreadableError), HotSpot.open(pid, SPACE_VARIABLES):
            pass


def _read(target: TargetFacts) -> Ledger:
    pid = target.pid
    notes: list[str] = []
    status_before = procfs.read_status(pid)
    regions = read_regions(pid)
    with HeapMemory(pid) as memory:
        java, names, counts = _read_java(pid, regions, notes)
        owners = Owners()
        _own_java(owners, java, names)
        maps = [region.entry for region in regions]
        arenas = find_arenas(pid, maps)
        for start, end in arenas:
            owners.add(start, end, "go", "arenas")
        threads = procfs.read_threads(pid)
        java_tids = {tid for _, _, tid in java.stacks} if java else set()
        pointers = read_stack_pointers(pid, [tid for tid in threads if tid != pid and tid not in java_tids])
        pointers = {tid: pointer for tid, pointer in pointers.items() if not owners.inside(pointer, pointer + 1)}
        stacks = find_stacks(regions, pointers)
        is_all_go = bool(arenas) and not has_libc(maps)
        taken = [*owners.ranges(), *((low, high) for low, high, _ in stacks)]
        walks = [] if is_all_go else _walk(memory, regions, target, taken, notes)
        for walk in walks:
            for start, end, what in walk.ranges:
                owners.add(start, end, "allocator" if what == TABLES else _MALLOC, what)
        for stack in stacks:
            name = threads.get(stack.tid, "threads that ended")
            owners.add(stack.start, stack.end, "thread-stacks", name)
        python_used = _own_python(memory, regions, owners)
        _own_v8(memory, regions, owners)
        unwalked = _unwalked(walks, maps)
        pieces = _pieces(memory, regions, owners, java, unwalked, rest=_GO_TABLES if is_all_go else None)
        retained = sum(walk.total.retained_resident_bytes for walk in walks)
        lines = _lines(pieces, retained, next(iter(unwalked), ""))
        _add_used(lines, walks, java, python_used)
        all_stacks = [*stacks, *(java.stacks if java else ())]
        heap_line = next((line.resident for line in lines if line.id == "java-heap"), 0)
        inside = look_inside(memory, regions, walks, java, all_stacks, threads | names, heap_line)
    status = procfs.read_status(pid)
    return Ledger(
        target=target,
        lines=lines,
        pieces=pieces,
        rss=sum(region.rss for region in regions),
        swap=sum(region.swap for region in regions),
        virtual=_kib(status, "VmSize"),
        status_rss=(_kib(status_before, "VmRSS"), _kib(status, "VmRSS")),
        page_tables=_kib(status, "VmPTE"),
        huge=sum(region.huge for region in regions),
        n_regions=len(regions),
        n_threads=len(threads),
        walks=walks,
        java=java,
        groups=read_memory_groups(pid),
        machine_bytes=_machine_bytes(),
        notes=notes,
        native_counts=counts,
        heap_free=inside.heap_free,
        heap_resident=inside.heap_resident,
        huge_zero=inside.huge_zero,
        rlimits=read_rlimits(pid, status),
        unwalked=unwalked,
        arena_threads=inside.arena_threads,
        charges=read_charges(pid),
        anonymous=_kib(status, "RssAnon"),
    )


def _read_java(
    pid: int, regions: Sequence[Region], notes: list[str]
) -> tuple[JavaSpaces | None, dict[int, str], NativeCounts]:
    """What the JVM says, names of its threads, and what Java counts of memory outside of its heap."""
    counts = NativeCounts()
    if find_libjvm(region.entry for region in regions) is None:
        return None, {}, counts
    try:
        with HotSpot.open(pid, SPACE_VARIABLES) as vm:
            spaces = read_spaces(vm)
            notes += spaces.notes
            with contextlib.suppress(UnreadableError):
                counts = read_native_counts(vm)
            try:
                return spaces, ThreadNamer(vm).read(), counts
            except UnreadableError as error:
                notes.append(f"names of Java threads: {error}")
                return spaces, {}, counts
    except UnreadableError as error:
        notes.append(f"the JVM's memory has no names: {error}")
        return None, {}, counts


def _own_java(owners: Owners, java: JavaSpaces | None, names: dict[int, str]) -> None:
    if java is None:
        return
    for start, end, tid in java.stacks:
        owners.add(start, end, "thread-stacks", names.get(tid, f"thread {tid}"))
    for start, end, line, name in java.ranges:
        owners.add(start, end, line, name)


def _walk(
    memory: HeapMemory,
    regions: Sequence[Region],
    target: TargetFacts,
    taken: Sequence[tuple[int, int]],
    notes: list[str],
) -> list[HeapWalk]:
    """Every allocator that is in the process and can be walked."""
    maps = [region.entry for region in regions]
    walks: list[HeapWalk] = []
    if has_jemalloc(maps):
        walks += _tried(lambda: walk_jemalloc(memory, maps), notes)
    else:
        notes += [f"{name} is mapped; it is not walked" for name in _unknown_allocators(maps)]
    used = sorted([*taken, *((start, end) for walk in walks for start, end, _ in walk.ranges)])
    if has_musl(maps):
        return walks + _tried(lambda: walk_musl(memory, maps), notes)
    of_glibc: list[str] = []
    walks += _tried(lambda: walk_glibc(memory, maps, target.exe, used), of_glibc)
    if not of_glibc or walks:
        return walks
    found = _tried(lambda: walk_musl(memory, maps), [])
    if not found and not _unknown_allocators(maps):
        notes += of_glibc  # beside another allocator glibc's own may never have been used
    return walks + found


def _tried(walk: Callable[[], HeapWalk], notes: list[str]) -> list[HeapWalk]:
    """A walk and its notes; none, and why, where it cannot be done."""
    try:
        done = walk()
    except HeapError as error:
        notes.append(error.what)
        return []
    notes += done.notes
    return [done]


def _unwalked(walks: Sequence[HeapWalk], maps: Sequence[MapEntry]) -> list[str]:
    """Names of allocators that are mapped and were not walked."""
    if has_jemalloc(maps):
        return [] if any(walk.kind == "jemalloc" for walk in walks) else ["jemalloc"]
    return _unknown_allocators(maps)


def _unknown_allocators(maps: Sequence[MapEntry]) -> list[str]:
    found = (match[1] for entry in maps if (match := _OTHER_ALLOCATOR.search(entry.path)))
    return sorted(set(found))


def _pieces(
    memory: HeapMemory,
    regions: Sequence[Region],
    owners: Owners,
    java: JavaSpaces | None,
    unwalked: Sequence[str],
    rest: tuple[str, str] | None,
) -> list[Piece]:
    """All mappings, cut by owners; ``rest`` is (line, name) of what no owner claims, None where that is unexplained."""
    program_files = frozenset(region.entry.path for region in regions if region.entry.executable and region.entry.inode)
    heap_bytes = java.flags.get("MaxHeapSize", 0) if java else 0
    neighbours = Neighbours(regions, program_files, heap_bytes, unwalked, rest)
    pieces: list[Piece] = []
    for index, region in enumerate(regions):
        cuts: list[tuple[int, int, str, str]] = []
        place = region.start
        for owner in owners.inside(region.start, region.end):
            if owner.start > place:
                cuts.append((place, owner.start, *neighbours.name_of(index, place, owner.start)))
            place = min(owner.end, region.end)
            cuts.append((max(owner.start, region.start), place, owner.line, owner.name))
        if place < region.end:
            cuts.append((place, region.end, *neighbours.name_of(index, place, region.end)))
        pieces += _measured(memory, region, cuts)
    return pieces


def _measured(memory: HeapMemory, region: Region, cuts: Sequence[tuple[int, int, str, str]]) -> list[Piece]:
    """The pieces of one mapping with their resident bytes; the largest takes what is left."""
    resident = [0] * len(cuts)
    largest = max(range(len(cuts)), key=lambda index: cuts[index][1] - cuts[index][0])
    left = region.rss
    if left:
        for index, (start, end, _, _) in enumerate(cuts):
            if index != largest:
                resident[index] = min(left, memory.resident_bytes(start, end))
                left -= resident[index]
    resident[largest] = left
    return [
        Piece(start, end, line, name, resident[index], region.swap if index == largest else 0)
        for index, (start, end, line, name) in enumerate(cuts)
    ]


def _lines(pieces: Sequence[Piece], retained: int, unwalked: str) -> list[Line]:
    lines = {line_id: Line(line_id) for line_id in LABELS}
    lines["allocator"].owner = unwalked
    details: dict[str, dict[str, int]] = {line_id: {} for line_id in LABELS}
    for piece in pieces:
        line = lines[piece.line]
        line.resident += piece.resident
        line.swap += piece.swap
        line.virtual += piece.end - piece.start
        if piece.resident:
            names = details[piece.line]
            names[piece.name] = names.get(piece.name, 0) + piece.resident
    live = lines[_MALLOC]
    kept = min(retained, live.resident)
    live.resident -= kept
    lines["malloc-retained"].resident = kept
    for line_id, names in details.items():
        ordered = sorted(names.items(), key=lambda item: -item[1])[:_MAX_DETAIL]
        lines[line_id].detail = [(name, n_bytes) for name, n_bytes in ordered if name]
    return [line for line in lines.values() if line.resident or line.swap or line.virtual]


def _own_python(memory: HeapMemory, regions: Sequence[Region], owners: Owners) -> int | None:
    """Give the arenas of CPython their line; bytes of its blocks in use, None without CPython."""
    if not has_python(region.entry for region in regions):
        return None
    used = 0
    for region in regions:
        if region.entry.perms != "rw-p" or region.entry.path or not region.rss:
            continue
        for start, end in list(owners.free(region.start, region.end)):
            pools = find_pools(memory, start, end)
            if pools is not None:
                owners.add(start, end, "python", "arenas")
                used += pools.in_use_bytes
    return used


def _own_v8(memory: HeapMemory, regions: Sequence[Region], owners: Owners) -> None:
    """Give the chunks of V8 their line."""
    if not has_v8(region.entry for region in regions):
        return
    for region in regions:
        if region.entry.path or not region.rss:
            continue
        for start, end in list(owners.free(region.start, region.end)):
            for low, high in find_chunks(memory, start, end):
                owners.add(low, high, "javascript", "chunks")


def _add_used(
    lines: Sequence[Line], walks: Sequence[HeapWalk], java: JavaSpaces | None, python_used: int | None
) -> None:
    used: dict[str, int | None] = {"python": python_used}
    if walks:
        used[_MALLOC] = sum(walk.in_use_bytes for walk in walks)
    if java is not None:
        used |= {
            "java-heap": java.heap.used if java.heap else None,
            "code-cache": java.code_used,
        }
    for line in lines:
        line.used = used.get(line.id)


def _kib(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0").split()[0]) * 1024


def _machine_bytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return int(file.readline().split()[1]) * 1024
    except (OSError, ValueError, IndexError) as error:
        raise NativeleakError(f"reading /proc/meminfo failed: {error}") from error
