"""Measures the cost of a Java stack: CPU time of a malloc/free pair by depth, untraced and traced, in one JVM.

    benchmarks/java_stacks.py [ROUNDS [RELEASE [OPTION ...]]]

One thread makes pairs below a number of compiled Java frames, in three ways:

    untraced
    skipped   with probes, but ``--min-size`` skips every block, so no stack is walked
    stacks    with stacks

The cost of the stacks is the difference of the last two: the walk, its hash, and the booking of one block. RELEASE is
``debian`` (default) or one of tests/targets/jdks.py. OPTION is an option of the JVM: with ``-Xint`` the frames are
interpreted. Run as root in a checkout after scripts/setup --tests. Limits, for compiled frames: 2,200 ns at 22 frames,
120 ns for a further frame.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.recording.reader import open_recording
from stacks import await_snapshots
from support import Target, Trace, java_launcher, target_path

PAIRS = 100_000
DEPTHS = (1, 10, 30, 70, 100)
LIMIT_FRAMES, LIMIT_NS, LIMIT_FRAME_NS = 22, 2200.0, 120.0
WAYS: dict[str, list[object] | None] = {"untraced": None, "skipped": ["--min-size", "1M"], "stacks": []}


def measure(target: Target, rounds: int) -> dict[int, float]:
    """Depth -> median nanoseconds a pair."""
    times = {depth: [target.ask(f"go {depth} {PAIRS}")["ns_per_pair"] for _ in range(rounds)] for depth in DEPTHS}
    return {depth: statistics.median(values) for depth, values in times.items()}


def raw_frames(recording: Path) -> list[int]:
    """Number of return addresses in each stack of the pairs, shallowest first; inlined frames do not count."""
    with open_recording(recording) as opened:
        stacks = {
            site.key.stack_key: site.allocated_count for site in opened.sites if site.allocated_count >= PAIRS // 2
        }
        found = [stack for key in stacks if (stack := opened.stack(key)) is not None]
    return sorted(sum(frame.kind.value != "java-inlined" for frame in stack.frames) for stack in found)


def main() -> None:
    """Run all ways in turn, in one JVM."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    java = java_launcher(sys.argv[2] if len(sys.argv) > 2 else "debian")
    quiet = ["-XX:CompileCommand=quiet", "-XX:CompileCommand=dontinline,Depths::down"]
    command = [java, *quiet, "-XX:+UseSerialGC", *sys.argv[3:], "-cp", target_path("Depths"), "Depths"]
    times = {}
    frames: list[int] = []
    with Target("Depths", command=command) as target:
        measure(target, 1)
        for way, options in WAYS.items():
            if options is None:
                times[way] = measure(target, rounds)
                continue
            with Trace(target, options=["--interval", "0.5s", *options]) as trace:
                await_snapshots(trace, 4)  # by then the unwind tables are ready
                times[way] = measure(target, rounds)
                trace.stop()
                frames = raw_frames(trace.recording)
    print(f"{rounds} rounds of {PAIRS:,} pairs, medians; load average {os.getloadavg()[0]:.1f}; frames seen: {frames}")
    print(f"{'Java frames':>12}" + "".join(f"{way:>12}" for way in times) + f"{'of stacks':>12}   ns a pair")
    costs = {depth: times["stacks"][depth] - times["skipped"][depth] for depth in DEPTHS}
    for depth in DEPTHS:
        print(f"{depth:>12}" + "".join(f"{times[way][depth]:>12,.0f}" for way in times) + f"{costs[depth]:>12,.0f}")
    a_frame, fixed = statistics.linear_regression(list(DEPTHS), [costs[depth] for depth in DEPTHS])
    around = min(frames) - min(DEPTHS) if frames else 0
    at_limit = fixed + a_frame * (LIMIT_FRAMES - around)
    print(f"a stack of {LIMIT_FRAMES} frames {at_limit:,.0f} ns (limit {LIMIT_NS:,.0f}), ", end="")
    print(f"a further frame {a_frame:,.0f} ns (limit {LIMIT_FRAME_NS:,.0f})")


if __name__ == "__main__":
    main()
