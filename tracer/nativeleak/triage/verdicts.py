"""Verdicts: what the lines mean, with evidence and what to do next.

Scope: rules over one ledger. A verdict that rests on what was read is proven; one that rests on sizes alone is likely
or possible. Nothing here says that memory leaks: one moment cannot tell growth.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from nativeleak.triage import group
from nativeleak.triage.beside import (
    free_heap,
    go_heap,
    huge_pages,
    page_tables,
    script_heap,
    ulimits,
    unwalked_allocator,
)
from nativeleak.triage.children import children
from nativeleak.triage.java_counts import zlib_streams
from nativeleak.triage.lines import Ledger
from nativeleak.triage.statement import LIKELY, POSSIBLE, PROVEN
from nativeleak.triage.statement import Verdict as Verdict  # others take it from here
from nativeleak.units import format_bytes

_MIN_BYTES: Final = 16 << 20
_MIN_SHARE: Final = 0.15
_STACKS_SHARE: Final = 0.1
_MANY_THREADS: Final = 1000
_FILES_SHARE: Final = 0.4
_HEAP_SHARE: Final = 0.5
_UNEXPLAINED_SHARE: Final = 0.1
_NEAR: Final = 0.9
_WALKED: Final = 0.95
_DIRECT_BYTES: Final = 1 << 20
_UNLIMITED: Final = 1 << 60
_MOSTLY: Final = 0.8
_LARGE_CODE: Final = 0.9
_MAPPERS: Final = (
    (
        re.compile(r"/libruby[^/]*\.so|/ruby[\d.]*$"),
        "Ruby maps pages of 64 KiB for its objects, without a name: most likely these",
        "In the program: GC.stat(:heap_allocated_pages), ObjectSpace.count_objects",
    ),
    (
        re.compile(r"/php(?:-fpm|-cgi)?[\d.]*$|/libphp[^/]*\.so"),
        "PHP's own allocator maps chunks of 2 MiB, without a name: most likely these",
        "In the program: memory_get_usage(true); USE_ZEND_ALLOC=0 at its start has malloc serve it",
    ),
)
"""Program, what it maps without a name, and the next step."""


def judge(ledger: Ledger) -> list[Verdict]:
    """All that can be said, the most memory first; a limit that the JVM's own limits exceed comes before all."""
    rules: tuple[Callable[[Ledger], Verdict | None], ...] = (
        _limits, _retention, _direct_memory, zlib_streams, _native, _stacks, _metaspace, _code_cache, _files,
        _java_heap, _python, script_heap, go_heap, free_heap, huge_pages, page_tables, ulimits, unwalked_allocator,
        _unexplained, group.kernel_memory, group.page_cache, group.shared_memory, group.other_processes, children,
    )  # fmt: skip
    found = [verdict for rule in rules if (verdict := rule(ledger)) is not None]
    weights = {verdict.id: verdict.weight for verdict in found}
    if weights.get("direct-memory", 0) > _MOSTLY * weights.get("native-memory", 0):
        found = [verdict for verdict in found if verdict.id != "native-memory"]  # it says the same of the same blocks
    return sorted(found, key=lambda verdict: (verdict.id != "limit-exceeded", -verdict.weight))


def trace_command(ledger: Ledger, minutes: int = 10) -> str:
    """The line that finds out which code allocates."""
    return f"nativeleak trace -p {ledger.target.pid} --duration {minutes}m"


def holders_command(ledger: Ledger) -> str:
    """The line that finds out who holds blocks that are there already."""
    return f"nativeleak holders -p {ledger.target.pid}"


def tightest_limit(ledger: Ledger) -> tuple[int, str]:
    """(bytes, name) of the memory limit with the least bytes: a control group's or the machine's."""
    groups = [(each.limit_bytes, f"cgroup {each.path}") for each in ledger.groups]
    return min([*groups, (ledger.machine_bytes, "machine")])


def java_limits(ledger: Ledger) -> list[tuple[str, int]]:
    """(name, bytes) of all that this JVM may take, as it is configured or, where no limit is set, as it has now."""
    java = ledger.java
    if java is None or not java.flags.get("MaxHeapSize"):
        return []
    flags = java.flags
    heap = flags["MaxHeapSize"]
    direct = flags.get("MaxDirectMemorySize", 0) or heap
    direct_name = "-XX:MaxDirectMemorySize" if flags.get("MaxDirectMemorySize") else "direct memory (its limit is -Xmx)"
    return [
        ("-Xmx", heap),
        (_limit_name("MaxMetaspaceSize", flags, "metaspace now"),
         _limited(flags.get("MaxMetaspaceSize", _UNLIMITED), ledger.resident("metaspace", "class-space"))),
        ("-XX:ReservedCodeCacheSize", flags.get("ReservedCodeCacheSize", ledger.resident("code-cache"))),
        (direct_name, direct),
        ("thread stacks now", ledger.resident("thread-stacks")),
        ("collector and JVM tables now", ledger.resident("collector", "cds", "libraries")),
    ]  # fmt: skip


def _limited(limit: int, now: int) -> int:
    return now if limit >= _UNLIMITED else limit


def _limit_name(flag: str, flags: dict[str, int], otherwise: str) -> str:
    return f"-XX:{flag}" if flags.get(flag, _UNLIMITED) < _UNLIMITED else otherwise


def _largest(ledger: Ledger, blocks: Mapping[int, int]) -> list[str]:
    """The three sizes that hold the most, from (size, number)."""
    lines = []
    for size, count in sorted(blocks.items(), key=lambda item: -item[0] * item[1])[:3]:
        name = ledger.known_as(size)
        blocks_text = f"{count:,} block{'s' if count > 1 else ''} of {size:,} bytes = {format_bytes(size * count)}"
        lines.append(f"{blocks_text}: {name}" if name else blocks_text)
    return lines


def _limits(ledger: Ledger) -> Verdict | None:
    parts = java_limits(ledger)
    if not parts:
        return None
    limit, name = tightest_limit(ledger)
    sure = sum(n_bytes for what, n_bytes in parts if not what.startswith("direct memory"))
    most = sum(n_bytes for _, n_bytes in parts)
    heap = parts[0][1]
    if sure <= limit and (most <= limit or heap < _NEAR / 2 * limit):
        return None
    evidence = (
        "; ".join(f"{what} {format_bytes(n_bytes)}" for what, n_bytes in parts),
        f"together up to {format_bytes(most)}; limit {format_bytes(limit)} ({name})",
    )
    room = max(0, limit - (most - heap))
    return Verdict(
        "limit-exceeded",
        PROVEN if sure > limit else LIKELY,
        f"The JVM may take more than its limit: up to {format_bytes(most)} of {format_bytes(limit)}.",
        evidence,
        (
            f"Lower -Xmx below {format_bytes(room)}, or raise the limit." if room > _MIN_BYTES else "Raise the limit.",
            "Set -XX:MaxDirectMemorySize: without it direct buffers may take as much as the heap.",
        ),
        most - limit,
    )


def _retention(ledger: Ledger) -> Verdict | None:
    resident = ledger.resident("malloc-retained")
    if resident < _MIN_BYTES or resident < _MIN_SHARE * ledger.rss or not ledger.walks:
        return None
    trimmable = sum(walk.total.trimmable_bytes for walk in ledger.walks)
    walked = min(walk.walked_share for walk in ledger.walks)
    kind = ledger.walks[0].kind
    n_arenas = sum(len(walk.arenas) for walk in ledger.walks)
    in_use = sum(walk.in_use_bytes for walk in ledger.walks)
    evidence = [
        f"in use {format_bytes(in_use)}, freed and resident {format_bytes(resident)}, "
        f"{n_arenas} arena{'s' if n_arenas > 1 else ''}, {walked:.0%} of its memory read"
    ]
    if kind == "glibc":
        evidence.append(f"malloc_trim would give back {format_bytes(trimmable)}; the rest lies between blocks in use")
    return Verdict(
        "allocator-retention",
        PROVEN if walked >= _WALKED else LIKELY,
        f"{kind} keeps {format_bytes(resident)} that the program has freed: retention, not a leak.",
        tuple(evidence),
        _less_retention(ledger, kind, n_arenas),
        resident,
    )


def _less_retention(ledger: Ledger, kind: str, n_arenas: int) -> tuple[str, ...]:
    """What gives memory back now, and what keeps less of it."""
    if kind == "jemalloc":
        return ("Start it with MALLOC_CONF=dirty_decay_ms:1000,muzzy_decay_ms:0, so that less stays.",)
    if kind != "glibc":
        return ("Restart it, or start it with another allocator; this one gives back whole groups of blocks only.",)
    if ledger.java is None:
        now = "Call malloc_trim(0) in the program after the peak of work, or restart it."
    else:
        now = f"jcmd {ledger.target.pid} System.trim_native_heap    (JDK 17.0.9 on)"
    setting = "MALLOC_ARENA_MAX=2" if n_arenas > 1 else "MALLOC_TRIM_THRESHOLD_=131072"
    return now, f"Start it with {setting}, or with jemalloc, so that less stays."


def _direct_memory(ledger: Ledger) -> Verdict | None:
    if ledger.java is None or not ledger.walks:
        return None
    blocks = {size: count for walk in ledger.walks for size, count in walk.mapped.items() if size >= _DIRECT_BYTES}
    n_bytes = sum(size * count for size, count in blocks.items())
    if n_bytes < _MIN_BYTES or n_bytes < _MIN_SHARE * ledger.rss:
        return None
    largest = sorted(blocks.items(), key=lambda item: -item[0] * item[1])[:3]
    evidence = [
        f"{count:,} blocks of {size:,} bytes = {format_bytes(size * count)}"
        + (f": {name}" if (name := ledger.known_as(size)) else "")
        for size, count in largest
    ]
    counts = ledger.native_counts
    if counts.direct_count or counts.netty_bytes:
        evidence.insert(1, f"Java counts: {counts.said()}")
    is_proven = max(counts.direct_bytes or 0, counts.netty_bytes or 0) >= _MOSTLY * n_bytes
    limit = ledger.java.flags.get("MaxDirectMemorySize", 0)
    evidence.append(f"-XX:MaxDirectMemorySize {format_bytes(limit) if limit else 'is not set: as much as -Xmx'}")
    resident = sum(piece.resident for piece in ledger.pieces if (piece.line, piece.name) == ("malloc-live", "mapped"))
    written = f", {format_bytes(resident)} of it in memory" if 0 < resident < _NEAR * n_bytes else ""
    return Verdict(
        "direct-memory",
        PROVEN if is_proven else LIKELY,
        f"Large blocks outside of the Java heap hold {format_bytes(n_bytes)}{written}: direct buffers"
        f"{'' if is_proven else ', most likely'}.",
        tuple(evidence),
        (
            f"{holders_command(ledger)}    shows which Java objects hold them, now",
            f"{trace_command(ledger)} --min-size 1M    shows who allocates more of them",
        ),
        n_bytes,
    )


def _native(ledger: Ledger) -> Verdict | None:
    resident = ledger.resident("malloc-live")
    if resident < _MIN_BYTES or resident < _MIN_SHARE * ledger.rss:
        return None
    return Verdict(
        "native-memory",
        PROVEN,
        f"The program holds {format_bytes(resident)} of malloc's memory.",
        tuple(_largest(ledger, sum((walk.sizes for walk in ledger.walks), Counter[int]()))),
        (
            f"{trace_command(ledger)}    shows whether it grows, and where",
            f"{holders_command(ledger)}    shows who holds it, now, and which blocks are lost",
        ),
        resident,
    )


def _stacks(ledger: Ledger) -> Verdict | None:
    line = ledger.line("thread-stacks")
    is_large = line.resident >= max(_MIN_BYTES, _STACKS_SHARE * ledger.rss)
    if not is_large and ledger.n_threads < _MANY_THREADS:
        return None
    average = line.resident // max(1, ledger.n_threads)
    return Verdict(
        "thread-stacks",
        PROVEN,
        f"{ledger.n_threads:,} threads hold {format_bytes(line.resident)} in their stacks.",
        (f"{format_bytes(average)} a thread; {format_bytes(line.virtual)} of address space",),
        ("Bound the pools of threads; smaller stacks (-Xss, pthread_attr_setstacksize) only lower the address space.",),
        line.resident,
    )


def _metaspace(ledger: Ledger) -> Verdict | None:
    resident = ledger.resident("metaspace", "class-space")
    if resident < 4 * _MIN_BYTES or resident < _MIN_SHARE * ledger.rss:
        return None
    return Verdict(
        "metaspace",
        PROVEN,
        f"Classes hold {format_bytes(resident)}: many classes, or class loaders that are not let go.",
        (f"metaspace {format_bytes(ledger.resident('metaspace'))}, "
         f"class space {format_bytes(ledger.resident('class-space'))}",),
        (f"jcmd {ledger.target.pid} VM.classloader_stats    lists the loaders",),
        resident,
    )  # fmt: skip


def _code_cache(ledger: Ledger) -> Verdict | None:
    used, java = ledger.line("code-cache").used, ledger.java
    limit = java.flags.get("ReservedCodeCacheSize", 0) if java else 0
    if used is None or not limit or used < _LARGE_CODE * limit:
        return None
    return Verdict(
        "code-cache", PROVEN, f"The code cache is full: {format_bytes(used)} of {format_bytes(limit)}.",
        ("a full code cache stops compiling, and costs speed rather than memory",),
        ("Raise -XX:ReservedCodeCacheSize.",), used,
    )  # fmt: skip


def _files(ledger: Ledger) -> Verdict | None:
    resident = ledger.resident("files", "shared")
    if resident < _MIN_BYTES or resident < _FILES_SHARE * ledger.rss:
        return None
    detail = [item for line in ("files", "shared") for item in ledger.line(line).detail]
    largest = sorted(detail, key=lambda item: -item[1])[:3]
    return Verdict(
        "mapped-files",
        PROVEN,
        f"Mapped files and shared memory hold {format_bytes(resident)}.",
        tuple(f"{name}: {format_bytes(n_bytes)}" for name, n_bytes in largest),
        ("The kernel gives pages of files back when memory is short; shared memory (/dev/shm, tmpfs) it does not.",),
        resident,
    )


def _java_heap(ledger: Ledger) -> Verdict | None:
    line = ledger.line("java-heap")
    if line.resident < _MIN_BYTES or line.resident < _HEAP_SHARE * ledger.rss or ledger.java is None:
        return None
    heap = ledger.java.heap
    parts = sorted(heap.parts.items(), key=lambda item: -item[1]) if heap else []
    evidence = [
        f"used {format_bytes(line.used) if line.used is not None else 'unknown'}, "
        f"-Xmx {format_bytes(ledger.java.flags.get('MaxHeapSize', 0))}, collector {ledger.java.collector or 'unknown'}"
    ]
    if parts:
        evidence.append(", ".join(f"{name} {format_bytes(n_bytes)}" for name, n_bytes in parts))
    return Verdict(
        "java-heap",
        PROVEN,
        f"The Java heap holds {format_bytes(line.resident)}, {line.resident / ledger.rss:.0%} of all.",
        tuple(evidence),
        (f"jcmd {ledger.target.pid} GC.class_histogram    shows the objects (it stops the JVM for a full collection)",),
        line.resident,
    )


def _python(ledger: Ledger) -> Verdict | None:
    line = ledger.line("python")
    if line.resident < _MIN_BYTES or line.resident < _HEAP_SHARE * ledger.rss or line.used is None:
        return None
    free = max(0, line.resident - line.used)
    return Verdict(
        "python-objects",
        PROVEN,
        f"Small Python objects hold {format_bytes(line.resident)}, {line.resident / ledger.rss:.0%} of all.",
        (f"in use {format_bytes(line.used)}; {format_bytes(free)} lie free between them",),
        ("tracemalloc shows the lines of Python that allocate them; a trace of malloc does not see them.",),
        line.resident,
    )


def _unexplained(ledger: Ledger) -> Verdict | None:
    line = ledger.line("unexplained")
    if line.resident < _MIN_BYTES or line.resident < _UNEXPLAINED_SHARE * ledger.rss:
        return None
    evidence = [f"{name}: {format_bytes(n_bytes)}" for name, n_bytes in line.detail[:3]]
    steps = [f"{trace_command(ledger)}    shows who maps memory"]
    for program, why, step in _MAPPERS:
        if any(program.search(piece.name) for piece in ledger.pieces if piece.line == "libraries"):
            evidence.insert(0, why)
            steps.insert(0, step)
    return Verdict(
        "unexplained",
        POSSIBLE,
        f"{format_bytes(line.resident)} lie in mappings that nothing names.",
        tuple(evidence),
        tuple(steps),
        line.resident,
    )
