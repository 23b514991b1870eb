"""SIGKILL at random moments: a killed tracer leaves a recording that reports, of a killed target there is a report.

    benchmarks/kills.py [tracer=200] [target=200]

Run as root in a checkout after scripts/setup --tests. The same as tests/integration/test_kills.py, at length. A moment
is anywhere from the appearance of the recording to some snapshots later.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TEST = Path(__file__).resolve().parent.parent / "tests" / "integration" / "test_kills.py"


def main(arguments: list[str]) -> int:
    """Run the test at length; 0 where every kill was survived."""
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
