"""What a triage of a large JVM takes: CPU time, memory, and whether the target notices.

    benchmarks/triage.py [ROUNDS]

The JVM has 8 GB of address space and 5,000 mappings. The goal is 1.5 s and 60 MB (issue 14). CPU time is counted, since
other work on the machine only adds to the clock. Run in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.target import Target, target_path

N_MAPPINGS = 4_800
HEAP = "1g"
GOAL_S, GOAL_MB = 1.5, 60


def triage(pid: int) -> tuple[float, float, float, dict[str, object]]:
    """CPU seconds, of these in the kernel, peak MB and the report of one triage."""
    code = (
        "import resource, subprocess, sys\n"
        f"words = [sys.executable, '-m', 'nativeleak', 'triage', '-p', '{pid}', '--format', 'json']\n"
        "done = subprocess.run(words, check=True, capture_output=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_stime, used.ru_maxrss / 1000, flush=True)\n"
        "sys.stdout.buffer.write(done.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    figures, _, text = done.partition("\n")
    cpu_s, kernel_s, mb = map(float, figures.split())
    report: dict[str, object] = json.loads(text)
    return cpu_s, kernel_s, mb, report


def main() -> None:
    """Print each round, the medians and whether the goals are met."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    class_path = target_path("ManyMappings")
    command = ["java", f"-Xms{HEAP}", f"-Xmx{HEAP}", "-XX:+AlwaysPreTouch", "-XX:+UseG1GC", "-cp", str(class_path)]
    with Target("ManyMappings", command=[*command, "ManyMappings", str(N_MAPPINGS)], timeout_s=120) as target:
        rows = []
        for number in range(n_rounds):
            cpu_s, kernel_s, mb, report = triage(target.pid)
            rows.append((cpu_s, mb))
            print(f"round {number + 1}: {cpu_s:.2f} s of CPU time, {kernel_s:.2f} s of it in the kernel; {mb:.0f} MB")
        maps = Path(f"/proc/{target.pid}/maps").read_text().count("\n")
    gib = int(str(report["virtual_bytes"])) / 2**30
    print(
        f"target: {int(str(report['rss_bytes'])) >> 20} MiB resident, {gib:.1f} GiB of address space, {maps:,} mappings"
    )
    cpu_s, mb = (statistics.median(values) for values in zip(*rows, strict=True))
    verdict = "met" if cpu_s <= GOAL_S and mb <= GOAL_MB else "missed"
    print(f"median {cpu_s:.2f} s and {mb:.0f} MB; the goal of {GOAL_S} s and {GOAL_MB} MB is {verdict}")


if __name__ == "__main__":
    main()
