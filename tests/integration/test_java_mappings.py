"""Java frames above every call that takes address space or gives it back: mmap, munmap, mremap and brk, to the byte.

Three of JDKs and modes; all of both where ``NATIVELEAK_TEST_JAVA=all``.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from nativeleak.model import FrameKind
from stacks import await_snapshots
from support import Report, Target, Trace, Truth, java_launcher, mismatches, target_path
from targets import jdks
from targets.jdks import DEBIAN

pytestmark = pytest.mark.jvm

N_ROUNDS = 503
IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"
MODES = {"mixed": (), "interpreted": ("-Xint",), "compiled": ("-Xcomp",)}
SAMPLE = [(DEBIAN, "mixed"), (DEBIAN, "interpreted"), ("21", "compiled")]
RUNS = [(release, mode) for release in (DEBIAN, *jdks.RELEASES) for mode in MODES] if IS_WHOLE else SAMPLE
JAVA = {FrameKind.JAVA_COMPILED.value, FrameKind.JAVA_INLINED.value, FrameKind.JAVA_INTERPRETED.value}
LEAVES = {"grow": "mremap", "shrink": "mremap", "raise": "brk"}
"""Site -> how the function begins whose code makes its system call; mmap of all others."""
GIVES_BY = {"Mappings.shrink": "mremap"}
"""The same of methods that give back; munmap of all others."""


def traced(release: str, options: tuple[str, ...]) -> tuple[Truth, Report]:
    """The target's truth, and a report with all of its sites."""
    folder, library = target_path("Mappings"), target_path("libmappings.so")
    command = [java_launcher(release), *options, "-cp", folder, "Mappings", library]
    with Target("Mappings", command=command) as target, Trace(target, options=["--interval", "0.5s"]) as trace:
        # Until an object has its unwind table its frames are guessed.
        await_snapshots(trace, 4)
        truth = target.ask(f"go {N_ROUNDS}")
        trace.stop()
        report = trace.all_sites()
    # The JVM maps for itself below any of these methods, when it commits room for a class.
    report["sites"] = [row for row in report["sites"] if row["owner"] == "program" and not is_of_class(row)]
    return truth, report


def java_methods(row: dict[str, Any]) -> list[str]:
    return [frame["function"] for frame in row["frames"] if frame["kind"] in JAVA]


def holds(names: list[str], calls: list[str]) -> bool:
    """Whether some methods stand one after the other in a stack, nothing between them."""
    return any(names[i : i + len(calls)] == calls for i in range(len(names)))


def is_of_class(row):
    """Whether it is metadata of a class, which Java code asked the JVM to load."""
    return any(frame["function"].startswith("Metaspace::allocate") for frame in row["frames"])


@pytest.mark.parametrize(("release", "mode"), RUNS)
def test_java_methods_that_map_and_give_back_are_named_and_exact(release, mode):
    truth, report = traced(release, MODES[mode])
    assert mismatches(report, truth) == []
    kinds = set()
    for site in truth["sites"]:
        rows = [row for row in report["sites"] if site["method"] in [frame["function"] for frame in row["frames"]]]
        rows = [row for row in rows if row["kind"] == site["kind"]]
        assert sum(row["allocated_count"] for row in rows) == site["allocated_count"]
        for row in rows:
            leaf = row["frames"][0]["function"]
            assert leaf.lstrip("_").startswith(LEAVES.get(site["name"], "mmap")), leaf
            assert java_methods(row)[-len(site["calls"]) :] == site["calls"]
            kinds |= {frame["kind"] for frame in row["frames"]}
    print(f"{release} {mode}: {sorted(kinds & JAVA)}")
    assert_givers_exact(truth, report)


def assert_givers_exact(truth: Truth, report: Report) -> None:
    """What each method gave back, and nothing of the program's beside it."""
    left = [row for row in report["unmapped"] if row["owner"] == "program" and row["freed_bytes"]]
    for giver in truth["givers"]:
        rows = [row for row in left if giver["method"] in java_methods(row)]
        left = [row for row in left if row not in rows]
        assert sum(row["calls"] for row in rows) == giver["n_calls"] == N_ROUNDS, giver
        for key in ("freed_bytes", "other_threads_bytes"):
            assert sum(row[key] for row in rows) == giver[key], giver
        for row in rows:
            assert row["thread"] == {"tid": giver["tid"], "name": giver["thread"]}
            leaf = row["frames"][0]["function"]
            assert leaf.lstrip("_").startswith(GIVES_BY.get(giver["method"], "munmap")), leaf
            assert holds(java_methods(row), giver["calls"]), java_methods(row)
            assert row["stack_end"] == "root"
    assert [[frame["function"] for frame in row["frames"]] for row in left] == []
