"""Measures the building of unwind tables: time, memory and size, for large objects of this machine.

    benchmarks/unwind_tables.py [OBJECT ...]

Prints one line per object: the time until the recorder has its call-site table (median of all rounds, with its limit if
there is one), CPU time and peak memory of the child that builds it (none for small objects), the growth of the
recorder, and the sizes of the table and of the full table. Run in a checkout.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from nativeleak.symbols.elf import PF_X, ElfFile
from nativeleak.unwind.builder import build
from nativeleak.unwind.eh_frame import n_frame_bytes

ROUNDS = 5
LIMITS_S = {"libjvm.so": 0.3, "libLLVM-14.so.1": 1.0}
LIBRARIES = "/usr/lib/x86_64-linux-gnu/"
OBJECTS = (
    f"{LIBRARIES}libz.so.1",
    f"{LIBRARIES}libc.so.6",
    f"{LIBRARIES}libstdc++.so.6",
    f"{LIBRARIES}libcrypto.so.3",
    "/usr/bin/perl",
    "/usr/bin/git",
    "/usr/bin/python3.11",
    "/usr/lib/postgresql/15/bin/postgres",
    "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so",
    "/usr/bin/node",
    f"{LIBRARIES}libLLVM-14.so.1",
)


def resident_kib() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 10


def measure(path: str, *, full: bool) -> dict[str, float | str]:
    """Build one table as the recorder does; call it in a new process, so that nothing was allocated before."""
    before_kib = resident_kib()
    start_s = time.perf_counter()
    table = build(path, full=full)
    elapsed_s = time.perf_counter() - start_s
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "elapsed_s": elapsed_s,
        "growth_kib": resident_kib() - before_kib,
        "cpu_s": child.ru_utime + child.ru_stime,
        "peak_mib": child.ru_maxrss / 1024,
        "n_rows": table.n_rows,
        "n_rules": table.n_rules,
        "table_kib": len(table.words) >> 10,
        "reason": table.reason,
    }


def measure_apart(path: str, kind: str) -> dict[str, float]:
    """``measure`` in a new process."""
    command = [sys.executable, __file__, "--measure", kind, path]
    made: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return made


def show(path: str) -> None:
    """Print the line of one object."""
    with ElfFile.open(path) as elf:
        text_mb = sum(load.file_bytes for load in elf.loads if load.flags & PF_X) / 1e6
        frame_kib = n_frame_bytes(elf) >> 10
    rounds = [measure_apart(path, "calls") for _ in range(ROUNDS)]
    full = measure_apart(path, "full")
    name, last = Path(path).name, rounds[-1]
    elapsed_s = statistics.median(each["elapsed_s"] for each in rounds)
    cpu_s = statistics.median(each["cpu_s"] for each in rounds)
    limit = f"{LIMITS_S[name]:5.1f}" if name in LIMITS_S else "    -"
    print(
        f"{name:16} {text_mb:6.1f} {frame_kib:7} {elapsed_s:7.3f} {limit} {cpu_s:6.2f} {last['peak_mib']:6.0f}"
        f" {max(each['growth_kib'] for each in rounds):7.0f} {last['n_rows']:7.0f} {last['n_rules']:6.0f}"
        f" {last['table_kib']:5.0f} {full['n_rows']:8.0f} {full['table_kib']:6.0f} {last['reason']}",
        flush=True,
    )


def main(arguments: list[str]) -> None:
    """Measure the objects that exist."""
    if arguments[:1] == ["--measure"]:
        print(json.dumps(measure(arguments[2], full=arguments[1] == "full")))
        return
    print("object          text MB CFI KiB  time s limit  CPU s    MiB  growth    rows  rules   KiB     full    KiB")
    for path in arguments or [path for path in OBJECTS if Path(path).exists()]:
        show(path)


if __name__ == "__main__":
    main(sys.argv[1:])
