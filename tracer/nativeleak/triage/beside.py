"""Verdicts about what lies in and beside the lines: free parts of the Java heap, huge pages, page tables, ulimits.

Scope: rules over one ledger, as in ``verdicts``.
"""

from __future__ import annotations

from typing import Final

from nativeleak.triage.lines import Ledger
from nativeleak.triage.statement import LIKELY, PROVEN, Verdict
from nativeleak.units import format_bytes

_MIN_BYTES: Final = 16 << 20
_MIN_SHARE: Final = 0.15
_HEAP_SHARE: Final = 0.4
_TABLES_SHARE: Final = 0.05
_NEAR: Final = 0.8
_WORDS: Final = {
    "free": "free regions",
    "eden": "eden",
    "survivor": "survivors",
    "humongous": "humongous",
    "old": "old",
}


def free_heap(ledger: Ledger) -> Verdict | None:
    """The Java heap keeps memory that it does not use."""
    free, java, line = ledger.heap_free, ledger.java, ledger.line("java-heap")
    if free is None or java is None or free < _MIN_BYTES or free < _MIN_SHARE * ledger.rss:
        return None
    used = "unknown" if line.used is None else format_bytes(line.used)
    parts = ", ".join(f"{_WORDS.get(name, name)} {format_bytes(n_bytes)}" for name, n_bytes in ledger.heap_resident[:4])
    if java.collector == "G1":
        after = "-XX:G1PeriodicGCInterval=300000 (JDK 12 on) gives them back in quiet times"
    elif java.collector in ("Z", "Shenandoah"):
        after = "-XX:SoftMaxHeapSize (JDK 13 on) is the size that it falls back to"
    else:
        after = "Lower -XX:MaxHeapFreeRatio, so that it shrinks after a collection"
    return Verdict(
        "java-heap-free",
        PROVEN if java.collector == "G1" else LIKELY,
        f"The Java heap keeps {format_bytes(free)} in memory that it does not use now.",
        (f"used {used}, resident {format_bytes(line.resident)}" + (f": {parts}" if parts else ""),),
        (
            f"jcmd {ledger.target.pid} GC.run    gives back what it can (it stops the JVM for a full collection)",
            f"{after}.",
        ),
        free,
    )


def script_heap(ledger: Ledger) -> Verdict | None:
    """Objects of JavaScript hold most of the memory."""
    line = ledger.line("javascript")
    if line.resident < _MIN_BYTES or line.resident < _HEAP_SHARE * ledger.rss:
        return None
    return Verdict(
        "javascript-heap",
        PROVEN,
        f"JavaScript objects hold {format_bytes(line.resident)}, {line.resident / ledger.rss:.0%} of all.",
        ("garbage that was not collected yet is among it",),
        ("node --heapsnapshot-signal=SIGUSR2 at its start, then this signal, writes the objects to a file.",
         "--max-old-space-size=MiB limits it; buffers lie outside of it, in malloc's memory."),
        line.resident,
    )  # fmt: skip


def go_heap(ledger: Ledger) -> Verdict | None:
    """The heap of a Go program holds most of the memory."""
    line = ledger.line("go")
    if line.resident < _MIN_BYTES or line.resident < _HEAP_SHARE * ledger.rss:
        return None
    return Verdict(
        "go-heap",
        PROVEN,
        f"The Go runtime holds {format_bytes(line.resident)}, {line.resident / ledger.rss:.0%} of all.",
        ("objects, garbage and memory that it keeps are not told apart; GOGC=100 collects at twice what lives",),
        ("go tool pprof http://HOST:PORT/debug/pprof/heap    shows the lines of Go, where the program serves it",
         "GOMEMLIMIT bounds the heap; GODEBUG=gctrace=1 at its start prints what lives after each collection."),
        line.resident,
    )  # fmt: skip


def huge_pages(ledger: Ledger) -> Verdict | None:
    """Huge pages hold zeros that nobody wrote."""
    zero = ledger.huge_zero
    if zero is None or zero < _MIN_BYTES or zero < _MIN_SHARE * ledger.rss:
        return None
    return Verdict(
        "huge-pages",
        LIKELY,
        f"Huge pages hold about {format_bytes(zero)} of zeros: memory that was never written.",
        (f"{format_bytes(ledger.huge)} lie in huge pages of 2 MiB; a sample of them was read",),
        ("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled    then restart the process",
         "A JVM takes them only with -XX:+UseTransparentHugePages where this says madvise."),
        zero,
    )  # fmt: skip


def page_tables(ledger: Ledger) -> Verdict | None:
    """Page tables are large beside the memory that they map."""
    tables = ledger.page_tables
    if tables < _MIN_BYTES or tables < _TABLES_SHARE * ledger.rss:
        return None
    return Verdict(
        "page-tables",
        PROVEN,
        f"Page tables hold {format_bytes(tables)}, beside the resident memory; the control group is charged for them.",
        (f"for {format_bytes(ledger.virtual)} of address space in {ledger.n_regions:,} mappings",),
        ("Memory that is spread thinly over a large address space has one table of 4 KiB for each 2 MiB it touches.",),
        tables,
    )


def unwalked_allocator(ledger: Ledger) -> Verdict | None:
    """An allocator holds memory that cannot be told apart."""
    resident = ledger.resident("allocator")
    if not ledger.unwalked or resident < _MIN_BYTES or resident < _MIN_SHARE * ledger.rss:
        return None
    name = ledger.unwalked[0]
    return Verdict(
        "allocator-not-walked",
        LIKELY,
        f"{name} holds about {format_bytes(resident)}: its blocks in use and those it retains are not told apart.",
        (f"{name} is mapped, and these are the anonymous mappings that nothing else claims",),
        (
            f"nativeleak trace -p {ledger.target.pid} --duration 10m    shows what of it grows, and where",
            _statistics(name),
        ),
        resident,
    )


def ulimits(ledger: Ledger) -> Verdict | None:
    """A resource limit is near."""
    near = [
        use
        for use in ledger.rlimits
        if use.usage_bytes is not None and use.usage_bytes >= _NEAR * use.limit.limit_bytes
    ]
    if not near:
        return None
    use = max(near, key=lambda each: (each.usage_bytes or 0) / each.limit.limit_bytes)
    used = use.usage_bytes or 0
    return Verdict(
        "ulimit-near",
        PROVEN,
        f"{use.limit.name} is nearly reached: {format_bytes(used)} of {format_bytes(use.limit.limit_bytes)}.",
        ("at the limit, malloc and mmap fail with ENOMEM; nothing is killed",),
        ("Raise it in the service's unit (LimitAS=, LimitDATA=) or with ulimit before the start.",),
        used,
    )


def _statistics(name: str) -> str:
    if "tcmalloc" in name:
        return "MALLOCSTATS=1 at its start, or MallocExtension::GetStats in the program, says what it retains."
    if "mimalloc" in name:
        return "MIMALLOC_SHOW_STATS=1 at its start, or mi_stats_print in the program, says what it retains."
    return "Its own statistics say what it retains."
