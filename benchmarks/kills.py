"""SIGKILL at random moments: a killed tracer leaves a recording that reports, and a killed target gives a report.

    benchmarks/kills.py [tracer=200] [target=200]

Runs tests/integration/test_kills.py with more kills. A kill comes anywhere between the appearance of the recording and
some snapshots later. Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TEST = Path(__file__).resolve().parent.parent / "tests" / "integration" / "test_kills.py"


def main(arguments: list[str]) -> int:
    """Run the test with many kills; 0 if it passed."""
    wanted = dict(argument.partition("=")[::2] for argument in arguments) or {"tracer": "200", "target": "200"}
    failed = 0
    for who, n in wanted.items():
        start_s = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-s",
            "-q",
            str(TEST),
            "-k",
            f"{who}_killed",
        ]
        done = subprocess.run(
            [*command, "--timeout", "7200"], env={**os.environ, "NATIVELEAK_TEST_KILLS": n or "200"}, check=False
        )
        verdict = "FAILED" if done.returncode else "good"
        print(f"{who} killed {n} times in {time.perf_counter() - start_s:.0f} s: {verdict}", flush=True)
        failed |= done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
