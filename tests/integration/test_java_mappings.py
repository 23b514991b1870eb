"""Java frames above every call that takes address space: mmap, mremap and brk; what munmap gives back, to the byte.

Of munmap no stack is recorded: what it takes away is taken from the call that mapped it. All JDKs where
``NATIVELEAK_TEST_JAVA=all``.
"""

from __future__ import annotations

import os

import pytest

from nativeleak.model import FrameKind
from stacks import await_snapshots
from support import Report, Target, Trace, Truth, java_launcher, mismatches, target_path
from targets import jdks
from targets.jdks import DEBIAN

pytestmark = pytest.mark.jvm

N_ROUNDS = 503
IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"
RELEASES = [DEBIAN, *jdks.RELEASES] if IS_WHOLE else [DEBIAN, "21"]
JAVA = {FrameKind.JAVA_COMPILED.value, FrameKind.JAVA_INLINED.value, FrameKind.JAVA_INTERPRETED.value}
LEAVES = {"keep": "mmap", "give": "mmap", "cut": "mmap", "map": "mmap", "grow": "mremap", "raise": "brk"}
"""Site -> how the function begins whose code makes its system call."""


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
    report["sites"] = [row for row in report["sites"] if row["owner"] == "program"]
    return truth, report


@pytest.mark.parametrize("options", [(), ("-Xint",), ("-Xcomp",)], ids=["mixed", "interpreted", "compiled"])
@pytest.mark.parametrize("release", RELEASES)
def test_java_methods_that_map_are_named_and_hold_what_they_map(release, options):
    truth, report = traced(release, options)
    assert mismatches(report, truth) == []
    kinds = set()
    for site in truth["sites"]:
        rows = [row for row in report["sites"] if site["method"] in [frame["function"] for frame in row["frames"]]]
        rows = [row for row in rows if row["kind"] == site["kind"]]
        assert sum(row["allocated_count"] for row in rows) == N_ROUNDS
        for row in rows:
            frames = row["frames"]
            names = [frame["function"] for frame in frames]
            assert names[0].lstrip("_").startswith(LEAVES.get(site["name"], "mmap")), names
            java = [frame for frame in frames if frame["kind"] in JAVA]
            assert [frame["function"] for frame in java][-len(site["calls"]) :] == site["calls"]
            kinds |= {frame["kind"] for frame in java}
    print(f"{release} {options}: {sorted(kinds)}")
