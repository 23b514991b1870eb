"""What a look at the holders costs: seconds a scan, memory of the tool, throughput of the target meanwhile.

    .venv/bin/python benchmarks/holders.py [--helper C|numpy]

CPU time is measured, since other work on the machine stretches the rest. Each case runs in a process of its own, so
that its largest resident memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

CASES = {
    "1,000,003 blocks": ("held_many", "1000003", "0"),
    "1 GiB, no pointers": ("held_many", "100003", "1024", "0"),
    "1 GiB, every 8th word a pointer": ("held_many", "100003", "1024", "8"),
    "4 GiB, every 8th word a pointer": ("held_many", "1000003", "4096", "8"),
    "8 GiB, every 8th word a pointer": ("held_many", "1000003", "8192", "8"),
    "1,000,003 Java objects": ("HoldsMany", "1000003"),
    "1,000,003 direct buffers": ("HoldsMany", "1000003", "buffers"),
    "1,000,003 direct buffers, busy": ("HoldsMany", "1000003", "buffers", "busy"),
}
JAVA = ("-Xmx1g", "-XX:MaxDirectMemorySize=2g")


def measure(pid: int) -> dict[str, Any]:
    """One look with two scans of a process, from inside of a process of its own."""
    from nativeleak.holders.run import Options, find_who_holds

    began = time.process_time()
    report = find_who_holds(pid, Options(n_scans=2, budget_s=600, step=8, gap_s=0.01))
    cpu_s = time.process_time() - began
    seen = report.completeness
    return {
        "blocks": seen.n_blocks,
        "read_mib": seen.read_bytes >> 20,
        "scan_s": round(seen.last_scan_s, 2),
        "look_cpu_s": round(cpu_s, 2),
        "edges": seen.n_edges,
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "helper": seen.helper,
    }


def effect(seconds: float) -> tuple[float, float]:
    """Operations a CPU second of a target with two busy threads: left alone, and looked at all the time."""
    from nativeleak.holders.run import Options, find_who_holds
    from support.target import Target

    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "truth"
        with Target("held", path, 2) as target:

            def rate(look: bool) -> float:
                before, cpu = _operations(path), _cpu_s(target.pid)
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    if look:
                        find_who_holds(target.pid, Options(n_scans=4, gap_s=0.01))
                    else:
                        time.sleep(0.1)
                return (_operations(path) - before) / (_cpu_s(target.pid) - cpu)

            rate(False)
            return rate(False), rate(True)


def _start(program: str, *arguments: str) -> Any:
    from support.target import Target, java_launcher, target_path

    if program != "HoldsMany":
        return Target(program, *arguments, timeout_s=300)
    java = [java_launcher("debian"), *JAVA, "-cp", str(target_path(program)), program]
    return Target(program, command=[*java, *arguments], timeout_s=300)


def _operations(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(16)[8:], "little")


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    churners = (task for task in tasks if (task / "comm").read_text() == "churner\n")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in churners) / 1e9


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--helper", choices=["C", "numpy"], default="C")
    parser.add_argument("--only", default="")
    parser.add_argument("--pid", type=int)
    arguments = parser.parse_args()
    if arguments.pid:
        print(json.dumps(measure(arguments.pid)))
        return
    env = {**os.environ, "NATIVELEAK_NO_HELPER": "1"} if arguments.helper == "numpy" else dict(os.environ)
    for name, (program, *rest) in CASES.items():
        if arguments.only not in name:
            continue
        with _start(program, *rest) as target:
            command = [sys.executable, __file__, "--pid", str(target.pid)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        print(f"{name}: {done.stdout.strip()}", flush=True)
    if arguments.only in "throughput":
        for _ in range(3):
            alone, looked_at = effect(5.0)
            print(f"throughput: {alone:,.0f} operations a CPU second alone, {looked_at:,.0f} looked at all the time")


if __name__ == "__main__":
    main()
