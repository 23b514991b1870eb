"""Measures the tracer on very large targets: threads, mappings, executable mappings, objects.

    benchmarks/scale.py [threads=10000] [maps=65000] [late=65000] [code=3000] [objects=1500]

Prints for each: seconds until attached, the tracer's CPU time for a snapshot and as a whole, its peak memory, and
whether the report has every block of the target. Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from stacks import read_snapshot_count
from support import Report, Target, Trace, eventually, target_path

DEFAULTS = {"threads": 10_000, "maps": 65_000, "late": 65_000, "code": 3_000, "objects": 1_500}
OPTIONS = {"late": ["--ring-size", "16M"]}
"""The default ring buffer is too small for so many events at once: it would lose some of them."""
BLOCK_BYTES = 1009
PAGE_BYTES = 4096
SNAPSHOTS = 5


def measure(kind: str, n: int) -> bool:
    """Trace a target of size ``n`` and print its figures; whether the report is exact."""
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nativeleak-scale-")))
        target = stack.enter_context(Target("many", kind, n, *more_arguments(kind, n, room)))
        start_s = time.perf_counter()
        trace = stack.enter_context(Trace(target, options=["--interval", "1s", *OPTIONS.get(kind, [])], timeout_s=300))
        attached_s = time.perf_counter() - start_s
        blocks = target.go()["blocks"]
        before = read_snapshot_count(trace.recording)
        cpu_s = cpu_of(trace.process.pid)
        eventually(lambda: read_snapshot_count(trace.recording) >= before + SNAPSHOTS, "snapshots", 300)
        cpu_s = cpu_of(trace.process.pid) - cpu_s
        start_s = time.perf_counter()
        report = trace.stop(300)
        end_s = time.perf_counter() - start_s
    exact = is_exact(report, blocks, n if kind == "late" else 0)
    overhead = report["overhead"]
    rss_mib = overhead["tracer_max_rss_bytes"] / 2**20
    snapshot_ms = report["completeness"]["snapshot_us"] / 1e3
    print(f"{kind} {n:,}: attached after {attached_s:.2f} s; end and report {end_s:.1f} s")
    print(f"  a snapshot {snapshot_ms:.0f} ms, {cpu_s / SNAPSHOTS:.3f} s of CPU, naming and writing included")
    print(f"  tracer {rss_mib:.0f} MiB, {overhead['tracer_cpu_s']:.1f} s of CPU")
    print(f"  {blocks:,} blocks {'exact' if exact else 'NOT EXACT'}", flush=True)
    return exact


def more_arguments(kind: str, n: int, room: Path) -> list[Path]:
    """Further arguments of the target ``many``."""
    library = target_path("libhostile.so")
    if kind == "objects":
        for i in range(n):
            shutil.copyfile(library, room / f"{i}.so")
        return [room]
    return [library] if kind == "code" else []


def cpu_of(pid: int) -> float:
    """CPU time of a process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def is_exact(report: Report, blocks: int, n_mapped: int) -> bool:
    """Whether the report has all blocks and all mappings."""
    sites = [site for site in report["sites"] if site["outstanding_bytes"] % BLOCK_BYTES == 0]
    sites = [site for site in sites if site["kind"] == "heap"]
    found = sum(site["outstanding_bytes"] for site in sites), sum(site["outstanding_count"] for site in sites)
    truncated = report["completeness"]["truncated_stacks"]
    if truncated:
        print(f"  {truncated} stacks cut")
    mapped = report["totals"]["map"]["outstanding_bytes"]
    return found == (blocks * BLOCK_BYTES, blocks) and mapped == n_mapped * PAGE_BYTES


if __name__ == "__main__":
    wanted = dict(argument.partition("=")[::2] for argument in sys.argv[1:]) or DEFAULTS
    results = [measure(kind, int(n or DEFAULTS[kind])) for kind, n in wanted.items()]
    sys.exit(not all(results))
