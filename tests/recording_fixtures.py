"""Synthetic recordings: a small builder over RecordingWriter, so that every number in a report is known beforehand."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from nativeleak.engines.registry import coverage_of
from nativeleak.model import (
    Frame,
    FrameKind,
    Kind,
    Owner,
    RuntimeInfo,
    SiteKey,
    SiteTotals,
    Snapshot,
    Stack,
    TargetEnd,
    TargetInfo,
    ThreadInfo,
    TraceInfo,
    UnmapTotals,
)
from nativeleak.recording import Recording, RecordingWriter, open_recording

STARTED = 1_795_454_780.0
MIB = 1 << 20


def trace_info(**changes: object) -> TraceInfo:
    facts: dict[str, object] = {
        "version": "0.1.0",
        "started": STARTED,
        "backend": "bpf-libbpf",
        "kernel": "6.18.0",
        "machine": "x86_64",
        "boot_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "probes": ("malloc", "mmap", "brk"),
    }
    facts |= changes
    facts.setdefault("coverage", coverage_of(str(facts["backend"])))
    return TraceInfo(**facts)  # type: ignore[arg-type]


def target(slot: int = 0, pid: int = 5687, **changes: object) -> TargetInfo:
    facts: dict[str, object] = {
        "comm": "java",
        "exe": "/usr/lib/jvm/bin/java",
        "runtime": RuntimeInfo("hotspot", "17.0.21"),
    }
    return TargetInfo(slot, pid, **(facts | changes))  # type: ignore[arg-type]


def native(function: str, module: str | None = "libc.so.6", offset: int = 16, **changes: object) -> Frame:
    return Frame(function, module, 0x7F0000001000 + offset, offset, **changes)  # type: ignore[arg-type]


def java(function: str, kind: FrameKind = FrameKind.JAVA_COMPILED, line: int | None = None) -> Frame:
    return Frame(function, None, 0x7F1000002000, 8, kind, function.split(".")[-2] + ".java", line)


def heap_site(
    thread: int, stack: int, allocated: tuple[int, int], freed: tuple[int, int] = (0, 0), **changes: object
) -> SiteTotals:
    facts: dict[str, object] = {"functions": ("malloc",), "oldest_s": 10.0 if allocated != freed else None}
    key = SiteKey(Kind.HEAP, 0, thread, stack)
    return SiteTotals(key, *allocated, *freed, **(facts | changes))  # type: ignore[arg-type]


def map_site(thread: int, stack: int, allocated: tuple[int, int], **changes: object) -> SiteTotals:
    facts: dict[str, object] = {"functions": ("mmap",), "resident_bytes": allocated[0] // 2, "oldest_s": 5.0}
    return SiteTotals(SiteKey(Kind.MAP, 0, thread, stack), *allocated, **(facts | changes))  # type: ignore[arg-type]


def brk_site(thread: int, stack: int, allocated: tuple[int, int], **changes: object) -> SiteTotals:
    facts: dict[str, object] = {"functions": ("brk",), "resident_bytes": allocated[0], "oldest_s": 5.0}
    return SiteTotals(SiteKey(Kind.BRK, 0, thread, stack), *allocated, **(facts | changes))  # type: ignore[arg-type]


def counters(**changes: int) -> dict[str, int]:
    names = (
        "lost_allocations lost_bytes lost_stacks truncated_stacks lost_events unmatched_frees unresolved_frames "
        "resolved_frames"
    )
    return dict.fromkeys(names.split(), 0) | changes


def snapshot(elapsed_s: float, sites: Iterable[SiteTotals], **changes: object) -> Snapshot:
    facts: dict[str, object] = {"targets": (target(),), "threads": (), "counters": counters(resolved_frames=12)}
    return Snapshot(elapsed_s, sites=tuple(sites), **(facts | changes))  # type: ignore[arg-type]


THREADS = (
    ThreadInfo(1, 0, 5687, "java"),
    ThreadInfo(2, 0, 1860, "nioEventLoop-1-1"),
    ThreadInfo(3, 0, 1861, "worker", alive=False),
)

STACKS = (
    Stack(
        11,
        (
            native("malloc"),
            native("os::malloc(unsigned long, MEMFLAGS)", "libjvm.so", 0x2F, file="os.cpp", line=735),
            native("Unsafe_AllocateMemory0", "libjvm.so", 0x8A),
            java("jdk.internal.misc.Unsafe.allocateMemory0", FrameKind.JAVA_COMPILED),
            java("java.nio.DirectByteBuffer.<init>", FrameKind.JAVA_INLINED, 118),
            java("io.netty.buffer.PoolArena.newChunk", FrameKind.JAVA_COMPILED, 758),
            java("com.example.gateway.Codec.decode", FrameKind.JAVA_INTERPRETED, 41),
            *[java("com.example.gateway.Pipeline.next", FrameKind.JAVA_INTERPRETED, 90)] * 17,
            native("thread_native_entry(Thread*)", "libjvm.so", 0xD3),
            native("start_thread", "libc.so.6", 0x2F4),
        ),
    ),
    Stack(12, (native("calloc", offset=9), native("cache_grow", "libcache.so", 0x40), native("main", "app", 0x11))),
    Stack(13, (native("mmap", offset=23), native("load_index", "libindex.so", 0x77), native("main", "app", 0x19))),
    Stack(14, (native("brk", offset=7), native("sbrk", offset=60), native("main", "app", 0x31))),
    Stack(15, (native("mmap", offset=23), native("sysmalloc"), native("malloc"), native("main", "app", 0x55))),
    Stack(16, (native("mmap", offset=23), native("os::reserve_memory", "libjvm.so", 0x20))),
    Stack(17, (native("munmap", offset=23), native("drop_index", "libindex.so", 0x99), native("main", "app", 0x23))),
    Stack(18, (native("munmap", offset=23), native("start_thread", "libc.so.6", 0x2F4))),
)


def gateway_sites(minute: int) -> tuple[SiteTotals, ...]:
    """Sites ``minute`` minutes after the start: one leak, one cache that is full, churn, maps, brk."""
    chunks = 5 + 3 * minute
    slices = tuple((chunks // 10 * 16 * MIB, chunks // 10) for _ in range(10))
    return (
        heap_site(2, 11, (chunks * 16 * MIB, chunks), oldest_s=60.0 * minute + 10, slices=slices),
        heap_site(1, 12, (4 * MIB, 4096), (MIB, 1024), functions=("calloc",), oldest_s=60.0 * minute + 1),
        heap_site(3, 12, (7 * MIB + minute * 4096, 7168 + minute), (7 * MIB + minute * 4096, 7168 + minute)),
        heap_site(3, 11, (1009, 1)),
        map_site(1, 13, (64 * MIB, 2)),
        map_site(1, 15, (32 * MIB, 1), owner=Owner.ALLOCATOR),
        map_site(1, 16, (128 * MIB, 1), owner=Owner.RUNTIME, reserved_bytes=1024 * MIB),
        brk_site(1, 14, (132 * 1024, 1)),
    )


def write_minutes(path: Path, minutes: int, *, without: int = 0) -> None:
    """A recording of ``gateway_sites``, a snapshot a minute; ``without`` the sites of one stack."""
    with RecordingWriter(path, trace_info(slice_s=60.0)) as writer:
        writer.add_stacks(STACKS)
        for minute in range(minutes + 1):
            sites = [site for site in gateway_sites(minute) if site.key.stack_key != without]
            writer.write_snapshot(snapshot(60.0 * (minute + 1), sites, threads=THREADS))
        writer.finish("duration", 60.0 * (minutes + 1))


def gateway_unmapped(minute: int) -> tuple[UnmapTotals, ...]:
    """Who gave mapped memory back until then: two threads of the program, the C library, an allocator."""
    n = minute + 1
    return (
        UnmapTotals(0, 0, 1, 17, Owner.PROGRAM, ("munmap",), 3 * n, 5 * n * 4096, 0, 0, 7 * 4096),
        UnmapTotals(1, 0, 0, 18, Owner.C_LIBRARY, ("munmap",), n, n * 8 * MIB, 0, n * 4096),
        UnmapTotals(2, 0, 0, 0, Owner.ALLOCATOR, ("munmap",), 11, 13 * MIB),
        UnmapTotals(3, 0, 2, 17, Owner.PROGRAM, ("munmap", "mremap"), 2, 19 * MIB, 17 * MIB, 3 * MIB),
    )


def write_gateway(path: Path, n_snapshots: int = 12, end: TargetEnd = TargetEnd.RUNNING, **lost: int) -> Path:
    """The recording of a Java gateway that leaks 48 MiB a minute in one thread."""
    with RecordingWriter(path, trace_info(slice_s=60.0)) as writer:
        writer.add_stacks(STACKS)
        for minute in range(n_snapshots):
            last = minute == n_snapshots - 1
            writer.write_snapshot(
                snapshot(
                    60.0 * (minute + 1),
                    gateway_sites(minute),
                    targets=(target(end=end if last else TargetEnd.RUNNING),),
                    threads=THREADS if minute == 0 else (),
                    counters=counters(resolved_frames=40, unmatched_frees=211, **(lost if last else {})),
                    unmapped=gateway_unmapped(minute),
                    rss_bytes=3000 * MIB + minute * 50 * MIB,
                    slice_s=60.0,
                    probe_hits=1_000_000 * (minute + 1),
                    probe_cost_ns=1400.0,
                    target_cpu_s=55.0 * (minute + 1),
                    tracer_cpu_s=0.21 * (minute + 1),
                    tracer_max_rss_bytes=22 * MIB,
                )
            )
        writer.finish("duration", 60.0 * n_snapshots)
    return path


def write_of_process(path: Path, host: str, pid: int, hour: int = 0, n_snapshots: int = 12) -> Path:
    """The gateway's recording as another host, process and hour would have it; PIDs of a host are of one boot."""
    write_gateway(path, n_snapshots)
    facts = {"host": host, "boot_id": f"{host}-0123-4567", "started": repr(STARTED + 3600 * hour)}
    with sqlite3.connect(path) as db:
        db.executemany("UPDATE trace SET value = ? WHERE name = ?", [(value, name) for name, value in facts.items()])
        db.execute("UPDATE targets SET pid = ?", (pid,))
    db.close()
    return path


def record(path: Path, write: Callable[[RecordingWriter], None], **facts: object) -> Recording:
    """Writes a recording by a function and opens it."""
    with RecordingWriter(path, trace_info(**facts)) as writer:
        write(writer)
        writer.finish("duration", 1.0)
    return open_recording(path)


def write_of_backend(path: Path, backend: str) -> Path:
    """A short recording as an engine of that backend writes it, with what such an engine cannot see left out."""
    probes = ("malloc", "mmap", "brk") if backend.startswith("bpf-") else ("mmap", "brk")
    with RecordingWriter(path, trace_info(backend=backend, probes=probes, slice_s=60.0)) as writer:
        if backend != "pmap":
            writer.add_stacks(STACKS)
        for minute in range(4):
            sites, unmapped, threads = gateway_sites(minute), gateway_unmapped(minute), THREADS
            if backend == "strace":
                sites = tuple(site for site in sites if site.key.kind is not Kind.HEAP)
            elif backend == "pmap":
                sites = tuple(
                    map_site(0, key, (n_bytes + minute * MIB, 1), functions=())
                    for key, n_bytes in ((77, 64 * MIB), (78, 128 * MIB))
                )
                unmapped, threads = (), ()
            writer.write_snapshot(
                snapshot(
                    60.0 * (minute + 1),
                    sites,
                    threads=threads if minute == 0 else (),
                    unmapped=unmapped,
                    counters=counters(resolved_frames=40, unmatched_frees=211 if "malloc" in probes else 0),
                    rss_bytes=3000 * MIB + minute * 50 * MIB,
                    slice_s=60.0,
                    probe_hits=1000 * (minute + 1),
                    probe_cost_ns=1400.0 if backend.startswith("bpf-") else 0.0,
                    target_cpu_s=55.0 * (minute + 1),
                    tracer_cpu_s=0.21 * (minute + 1),
                    tracer_max_rss_bytes=22 * MIB,
                )
            )
        writer.finish("duration", 240.0)
    return path


BACKENDS = ("bpf-libbpf", "bpf-bcc", "strace", "pmap")

if __name__ == "__main__":
    # python tests/recording_fixtures.py FOLDER: one recording of each backend, as this state of the tool writes it.
    for name in BACKENDS:
        write_of_backend(Path(sys.argv[1]) / f"{name}.nlk", name)
