"""Measures the report of many recordings: time and memory.

    benchmarks/many.py [files=100] [sites=10000] [snapshots=60] [apart=0]

Writes recordings of ``files`` processes on as many hosts, each with ``sites`` call sites, then reports on all of them:
in formats that merge by call path, and in formats with a row for each process (csv, pprof). In ``apart`` percent of the
stacks each recording has a function of its own. Memory is that of the command and its readers together, each page once
(Pss), looked at every 50 ms. Needs no root.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import report

DEFAULTS = {"files": 100, "sites": 10_000, "snapshots": 60, "apart": 0}
FORMATS = ("text", "json", "folded", "html", "csv", "pprof")


def write_all(folder: Path, wanted: dict[str, int]) -> None:
    """The recordings: copies of one, each with a host, a process and a share of functions of its own."""
    first = folder / "host-000.nlk"
    report.write(first, wanted["sites"], wanted["snapshots"], report.native_stack)
    for number in range(1, wanted["files"]):
        path = folder / f"host-{number:03}.nlk"
        shutil.copyfile(first, path)
        chance = random.Random(number)
        with sqlite3.connect(path) as db:
            db.execute("UPDATE trace SET value = ? WHERE name = 'host'", (path.stem,))
            db.execute("UPDATE trace SET value = ? WHERE name = 'boot_id'", (f"{chance.getrandbits(64):016x}",))
            db.execute("UPDATE targets SET pid = ?", (1000 + number,))
            share = (wanted["apart"] * 997 // 100,)
            db.execute(
                f"UPDATE frames SET function = function || '_{number}' "
                "WHERE function LIKE 'make_%' AND CAST(substr(function, 6) AS INTEGER) < ?",
                share,
            )
        db.close()


def pss_bytes(pid: int) -> int:
    """Memory of a process and its children, each page once."""
    total = 0
    for each in (pid, *children(pid)):
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0) << 10
    return total


def children(pid: int) -> list[int]:
    """Its children, at this moment."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def run(folder: Path, *options: str) -> str:
    """Time, CPU time of the command with its readers, peak memory and size of one report, in words."""
    out = folder.parent / "out"
    command = [sys.executable, "-m", "nativeleak", "report", str(folder), *options, "-o", str(out)]
    before, start_s, peak = os.times(), time.perf_counter(), 0
    process = subprocess.Popen(command, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    while process.poll() is None:
        peak = max(peak, pss_bytes(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"many.py: {' '.join(command)} failed")
    elapsed_s, after = time.perf_counter() - start_s, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    size = out.stat().st_size
    out.unlink()
    return f"{elapsed_s:.2f} s, {cpu_s:.2f} s of CPU, {peak / 1e6:.0f} MB of memory, report of {size / 1e6:.1f} MB"


def main() -> None:
    """Write, then measure."""
    wanted = DEFAULTS | {name: int(value) for name, _, value in (each.partition("=") for each in sys.argv[1:])}
    with tempfile.TemporaryDirectory(prefix="nativeleak-many-") as temporary:
        folder = Path(temporary) / "hosts"
        folder.mkdir()
        write_all(folder, wanted)
        print(f"{wanted['files']} recordings of {wanted['sites']:,} call sites, load {os.getloadavg()[0]:.1f}")
        for name in FORMATS:
            print(f"{name:7} {run(folder, '--format', name)}")


if __name__ == "__main__":
    main()
