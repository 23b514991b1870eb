"""Measures the time to attach and to detach probes: the functions of five allocators in one process.

    benchmarks/attach.py [ROUNDS]

The clock runs in the engine, after the probes have been placed. Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Limits, Programs
from nativeleak.probes.families import PLAIN_NAMES, choose_points
from nativeleak.probes.placement import PlacedProbe, place
from nativeleak.probes.returns import Plan
from nativeleak.process import procfs
from nativeleak.process.mapped import executable_objects
from nativeleak.symbols.functions import find_function_offsets
from support import PRELOADS, Target, preload, target_path

MIN_FUNCTIONS = 20
ATTACH_MS = 100
DETACH_MS = 200


def find_probes(pid: int) -> list[tuple[str, str, list[PlacedProbe]]]:
    """Objects that define allocator functions: (file, name, placed probes)."""
    found = []
    for mapped in executable_objects(pid, procfs.read_maps(pid)):
        points = choose_points(find_function_offsets(mapped.file_path, PLAIN_NAMES)) if mapped.file_path else []
        if points:
            found.append((mapped.file_path, mapped.path, place(mapped.file_path, points, moved_arguments=True)))
    return found


def measure(pid: int, probes: list[tuple[str, str, list[PlacedProbe]]]) -> tuple[float, float]:
    """Milliseconds to attach and to detach."""
    with Programs(Limits(), lambda _event: None) as engine:
        engine.add_target(0, pid, abi.Target(max_depth=abi.MAX_FRAMES, unwind=abi.Unwind.FP))
        start_s = time.perf_counter()
        for path, name, placed in probes:
            engine.attach_functions(0, pid, path, name, Plan(tuple(placed)))
        attached_s = time.perf_counter()
        engine.detach()
        return 1e3 * (attached_s - start_s), 1e3 * (time.perf_counter() - attached_s)


def main() -> None:
    """Print the medians of several rounds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    libraries = [preload(name)["LD_PRELOAD"] for name in PRELOADS] + [str(target_path("liballoc2.so"))]
    with Target("rate", env={"LD_PRELOAD": ":".join(libraries)}) as target:
        probes = find_probes(target.pid)
        n_functions = sum(len(placed) for _, _, placed in probes)
        assert len(probes) >= len(libraries) + 1, probes
        assert n_functions >= MIN_FUNCTIONS
        figures = [measure(target.pid, probes) for _ in range(rounds)]
    attach_ms, detach_ms = (statistics.median(column) for column in zip(*figures, strict=True))
    print(f"{n_functions} functions in {len(probes)} objects, {rounds} rounds, medians")
    for what, value, limit in (("attach", attach_ms, ATTACH_MS), ("detach", detach_ms, DETACH_MS)):
        print(f"{what}: {value:.0f} ms (limit {limit}) {'ok' if value <= limit else 'MISSED'}")


if __name__ == "__main__":
    main()
