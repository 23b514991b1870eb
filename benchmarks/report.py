"""Measures reports of recordings with very many sites: time, memory, and the size of JSON reports.

    benchmarks/report.py [sites=50000] [snapshots=60] [java=10000] [exported=10000]

Prints for a recording of ``sites`` native call sites the time and peak memory of a text report, the whole process with
its start; for one of ``exported`` native call sites those of each export; for one of ``java`` sites with stacks of a
JVM the size of the JSON report without and with --compact. Needs no root.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import recording_fixtures as fixtures
from nativeleak.model import Frame, FrameKind, SiteTotals, Stack, ThreadInfo
from nativeleak.recording import RecordingWriter

DEFAULTS = {"sites": 50_000, "snapshots": 60, "java": 10_000, "exported": 10_000}
EXPORTS = ("pprof", "folded", "csv", "speedscope", "prometheus")
THREADS = tuple(ThreadInfo(uid, 0, 1000 + uid, f"worker-{uid}") for uid in range(1, 65))
CHANGING = 20
"""Each snapshot changes one site in so many."""


def native_stack(key: int, chance: random.Random) -> Stack:
    """A stack of some 20 frames, most of them shared with other stacks."""
    frames = [fixtures.native("malloc"), fixtures.native(f"make_{key % 997}", "libmade.so", key % 997)]
    frames += [fixtures.native(f"call_{n}", "app", n) for n in sorted(chance.sample(range(3000), 15))]
    return Stack(key, (*frames, fixtures.native("main", "app"), fixtures.native("_start", "app")))


def java_stack(key: int, chance: random.Random) -> Stack:
    """A stack of 80 frames as a JVM has them."""
    frames: list[Frame] = [fixtures.native("malloc"), fixtures.native("Unsafe_AllocateMemory0", "libjvm.so")]
    for n in sorted(chance.sample(range(4000), 75)):
        name = f"com.example.service.layer{n % 40}.Component{n}.handleRequestOrSomethingElse"
        kind = FrameKind.JAVA_COMPILED if (key + n) % 3 else FrameKind.JAVA_INTERPRETED
        frames.append(fixtures.java(name, kind, n))
    return Stack(key, (*frames, fixtures.native("start_thread"), fixtures.native("clone3")))


def write(path: Path, n_sites: int, n_snapshots: int, make_stack: object) -> None:
    """A recording of this many sites; one in a hundred grows.

    A child writes it: the peak memory of this process counts as that of the processes that it starts.
    """
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_write, args=(path, n_sites, n_snapshots, make_stack))
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"writing {path} failed")


def _write(path: Path, n_sites: int, n_snapshots: int, make_stack: object) -> None:
    chance = random.Random(1)
    with RecordingWriter(path, fixtures.trace_info(slice_s=1.0)) as writer:
        writer.add_stacks([make_stack(key, chance) for key in range(1, n_sites + 1)])  # type: ignore[operator]
        for number in range(n_snapshots):
            changed = range(number % CHANGING, n_sites, CHANGING) if number else range(n_sites)
            sites = [site(i, number) for i in changed]
            facts = {"threads": THREADS if not number else (), "slice_s": n_snapshots / 16, "rss_bytes": 1 << 30}
            writer.write_snapshot(fixtures.snapshot(float(number + 1), sites, **facts))
        writer.finish("duration", float(n_snapshots))


def site(i: int, number: int) -> SiteTotals:
    """Totals of one site after so many snapshots."""
    blocks = 10 + (number if i % 100 == 0 else 0)
    slices = tuple((blocks * 64, blocks) for _ in range(16))
    n_freed = 0 if i % 100 == 0 else number
    return fixtures.heap_site(
        1 + i % len(THREADS), i + 1, ((blocks + n_freed) * 1024, blocks + n_freed), (n_freed * 1024, n_freed),
        slices=slices,
    )  # fmt: skip


def run_report(path: Path, *options: str) -> tuple[str, int]:
    """Time and peak memory in words, and bytes of one report, made in a process of its own."""
    command = [sys.executable, "-m", "nativeleak", "report", str(path), *options]
    start_s = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        elapsed_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"report.py: {' '.join(command)} failed")
        cpu_s = usage.ru_utime + usage.ru_stime
        figures = f"{elapsed_s:.2f} s, {cpu_s:.2f} s of CPU, {usage.ru_maxrss / 1024:.0f} MiB"
        return figures, os.fstat(out.fileno()).st_size


def main() -> None:
    """Write both recordings, then measure."""
    wanted = DEFAULTS | {name: int(value) for name, _, value in (each.partition("=") for each in sys.argv[1:])}
    with tempfile.TemporaryDirectory(prefix="nativeleak-report-") as folder:
        native, java = Path(folder) / "native.nlk", Path(folder) / "java.nlk"
        write(native, wanted["sites"], wanted["snapshots"], native_stack)
        for options in ([], ["--all"]):
            figures, _ = run_report(native, *options)
            print(f"text {' '.join(options)}, {wanted['sites']:,} sites: {figures}")
        exported = Path(folder) / "exported.nlk"
        write(exported, wanted["exported"], wanted["snapshots"], native_stack)
        for name in EXPORTS:
            figures, size = run_report(exported, "--format", name)
            print(f"{name}, {wanted['exported']:,} sites: {size / 1e6:.1f} MB, {figures}")
        write(java, wanted["java"], wanted["snapshots"], java_stack)
        for options in ([], ["--compact"]):
            figures, size = run_report(java, "--format", "json", *options)
            print(f"json {' '.join(options)}, {wanted['java']:,} sites of a JVM: {size / 1e6:.1f} MB, {figures}")


if __name__ == "__main__":
    main()
