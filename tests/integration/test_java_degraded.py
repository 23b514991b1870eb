"""A JVM that tells less of itself: what can still be shown is shown, and the report says what is missing, and why.

Private copies of a JDK, whose libjvm.so is stripped, or does not describe itself any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stacks import await_tables
from support import Report, Target, Trace, java_launcher, require, require_program, target_path

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]

N_EVENTS = 307
IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"
DESCRIPTION = b"\0gHotSpotVMStructs\0"
THREAD = "truth-with-a-long-name-"


def copied(release: str, room: Path) -> Path:
    """A JDK of one's own: its ``java``."""
    image = Path(java_launcher(release)).resolve().parent.parent
    shutil.copytree(image, room / release, symlinks=True)
    return room / release / "bin" / "java"


def libjvm(java: Path) -> Path:
    return java.parent.parent / "lib" / "server" / "libjvm.so"


def traced(java: Path, options: tuple[str, ...] = (), prepare: Callable[[Target], object] = id) -> Report:
    command = [java, "-Xmx256m", *options, "-cp", target_path("Truth"), "Truth", "2", "0", THREAD]
    with Target("Truth", command=command) as target:
        # All of it once before: what is compiled by then has its place in the code cache.
        target.ask(f"warm {N_EVENTS}")
        target.ask(f"go {N_EVENTS}")
        prepare(target)
        with Trace(target, options=["--min-size", 4096, "--interval", "0.5s"]) as trace:
            # Nothing but a table leads out of libjvm.so here.
            await_tables(trace)
            target.ask(f"go {N_EVENTS}")
            trace.stop()
            return trace.all_sites()


def own_sites(report: Report) -> list[list[dict]]:
    """Frames of the sites that Truth allocated at."""
    through = "Unsafe_AllocateMemory0"
    return [site["frames"] for site in report["sites"] if any(each["function"] == through for each in site["frames"])]


def notes(report: Report) -> str:
    return " ".join(note["text"] for note in report["notes"])


@pytest.mark.parametrize("release", ["17", "21"] if IS_WHOLE else ["21"])
def test_java_machine_without_symbols_has_its_java_frames_and_says_what_is_missing(release, tmp_path):
    java = copied(release, tmp_path)
    require_program("strip")
    subprocess.run(["strip", "--strip-all", libjvm(java)], check=True)
    report = traced(java)
    own = [
        site["frames"]
        for site in report["sites"]
        if any(frame["function"] == "OwnStack.allocate" for frame in site["frames"])
    ]
    assert own
    for frames in own:
        names = [frame["function"] for frame in frames]
        assert names[names.index("OwnStack.allocate") + 1] == "Truth.allocate"
        assert {"Truth.next", "Truth.run", "java.lang.Thread.run"} <= {*names}
    assert "full names of threads" in notes(report)
    assert "is it stripped?" in notes(report)
    assert ("virtual threads: libjvm.so has no symbol" in notes(report)) == (release == "21")
    # 15 characters are what the kernel keeps.
    assert {f"{THREAD}0"[:15]} & {thread["name"] for thread in report["threads"]}


def test_java_machine_that_does_not_describe_itself_has_the_names_of_its_perf_map(tmp_path):
    java = copied("17", tmp_path)
    image = libjvm(java).read_bytes()
    require(image.count(DESCRIPTION) >= 1, "this libjvm.so has no VMStructs to hide")
    libjvm(java).write_bytes(image.replace(DESCRIPTION, DESCRIPTION.replace(b"gHot", b"xHot")))

    def write_map(target: Target) -> None:
        subprocess.run([java.parent / "jcmd", str(target.pid), "Compiler.perfmap"], check=True, capture_output=True)

    # One compiler, so that what is compiled at its first call is not compiled again, elsewhere, after the map.
    report = traced(java, ("-XX:+PreserveFramePointer", "-Xcomp", "-XX:TieredStopAtLevel=1"), write_map)
    own = own_sites(report)
    assert own
    compiled = {frame["function"] for frames in own for frame in frames if frame["kind"] == "java-compiled"}
    # As jcmd writes them, and only what was compiled by then.
    assert "void Truth.run(int, long, java.util.concurrent.CountDownLatch)" in compiled
    assert "does not export gHotSpotVMStructs" in notes(report)
