"""Runs the demonstration's service under a trace many times: are its three leaks the suspects, and nothing else?

    benchmarks/demo.py [--runs N] [--jobs N] [--duration SECONDS] [--keep FOLDER]

Each run starts the service of scripts/demo, traces it with default options, and compares the suspects of the JSON
report with what the service does: three functions leak, each is one suspect, and none of its other threads is one.
Status 1 unless all runs are right. Run as root in a checkout after scripts/setup --demo. See docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from corpus.score import is_named, wilson
from targets import build

LEAKS = ("ChunkPool.newChunk", "GzipWriter.compress", "OrderCache.remember")
SERVICE = ("java", "-Xmx128m", "-XX:MaxDirectMemorySize=2g", "-cp", str(build.BIN), "Leaker")
SLACK_S = 180.0


@dataclass(frozen=True, slots=True)
class Result:
    """One run: what is wrong with it, nothing if it is right; what its suspects hold."""

    faults: list[str]
    said: list[str]


def judge(suspects: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the suspects of a report."""
    named = [next((leak for leak in LEAKS if is_named(each["name"], leak)), None) for each in suspects]
    faults = [f"missed {leak}" for leak in LEAKS if leak not in named]
    faults += [f"wrong {each['name']}" for each, leak in zip(suspects, named, strict=True) if leak is None]
    return faults + [f"twice {leak}" for leak in LEAKS if named.count(leak) > 1]


def run(number: int, seconds: float, folder: Path) -> Result:
    """Trace the service once."""
    recording = folder / f"demo-{number}.nlk"
    with subprocess.Popen(SERVICE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            word, pid = service.stdout.readline().split()
            if word != "READY":
                return Result([f"the service said {word}"], [])
            options = ["-p", pid, "--duration", f"{seconds:g}s", "--quiet", "--format", "json", "-o", str(recording)]
            done = subprocess.run(
                [sys.executable, "-m", "nativeleak", "trace", *options],
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + SLACK_S,
            )
        finally:
            service.kill()
    if done.returncode:
        return Result([f"status {done.returncode}: {done.stderr.strip()}"], [])
    suspects = json.loads(done.stdout)["suspects"]
    return Result(judge(suspects), [f"{each['name']} {each['outstanding_bytes'] / 2**20:.0f} MiB" for each in suspects])


def main() -> int:
    """Run them; status 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="runs at one time")
    parser.add_argument("--duration", type=float, default=20.0, help="of each trace, in seconds")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the recordings there")
    options = parser.parse_args()
    build.build_target("Leaker")
    n_right = 0
    with tempfile.TemporaryDirectory(prefix="nativeleak-demo-") as room, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.keep or Path(room)
        folder.mkdir(parents=True, exist_ok=True)
        runs = range(1, options.runs + 1)
        for number, result in zip(runs, pool.map(lambda n: run(n, options.duration, folder), runs), strict=True):
            n_right += not result.faults
            print(f"{number:>3}  {'; '.join(result.faults) or 'ok'}  {', '.join(result.said)}", flush=True)
    low, high = wilson(n_right, options.runs)
    print(f"{n_right} of {options.runs} runs right ({100 * low:.0f} - {100 * high:.0f} %, Wilson, 95 %)")
    return 0 if n_right == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
