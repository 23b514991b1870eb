"""Java stacks under stress, all that makes them difficult at once: each reaches the root, or says that it does not.

JDK 21, which has virtual threads; all where ``NATIVELEAK_TEST_JAVA=all``.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import pytest

from nativeleak.model import FrameSource, Stack
from nativeleak.recording.reader import open_recording
from nativeleak.runtimes.hotspot.names import STALE, UNREADABLE
from stacks import await_tables
from support import Report, Target, Trace, Truth, java_launcher, target_path
from targets import jdks
from targets.jdks import DEBIAN

pytestmark = pytest.mark.jvm

RUN_MS = int(os.environ.get("NATIVELEAK_TEST_STRESS_MS", "4000"))
"""How long the loads run; a minute shows more."""

WARM_MS = 3000

IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"
LOADS = ["zip", "reflection", "exceptions", "jni", "files", "threads", "gc"]
MORE_LOADS = {DEBIAN: ["javac"], "21": ["virtual"], "25": ["virtual"]}
MIN_SHARE = 0.999
MARKS = {STALE, UNREADABLE}
CARRIER = {"java.util.concurrent.ForkJoinWorkerThread.run", *MARKS}
LONG_NAME = "stress-with-a-long-name-"


@dataclass(slots=True)
class Stressed:
    """What a trace saw of the stress.

    Attributes:
        sites: Bytes and count allocated, and the stack, of each site.
    """

    truth: Truth
    report: Report
    sites: list[tuple[int, int, Stack]]

    def share_complete(self, amount: int) -> float:
        """Share of what was allocated by stacks that reach the root; 0 by bytes, 1 by count."""
        whole = sum(site[amount] for site in self.sites if site[2].end == "root")
        return whole / sum(site[amount] for site in self.sites)


def stressed(release: str, loads: list[str], options: tuple[str, ...] = (), warm_ms: int = WARM_MS) -> Stressed:
    """Run the loads without a trace, until most code is compiled, and then under one."""
    folder, library = target_path("Stress"), target_path("libnofp.so")
    command = [java_launcher(release), "-Xmx256m", "-XX:MaxDirectMemorySize=1g", *options, "-cp", folder, "Stress"]
    with Target("Stress", library, *loads, command=command) as target:
        if warm_ms:
            target.ask(f"go {warm_ms}")
        with Trace(target, options=["--max-depth", 512, "--interval", "0.5s"]) as trace:
            await_tables(trace)
            truth = target.ask(f"go {RUN_MS}")
            trace.stop()
            report = trace.all_sites()
            with open_recording(trace.recording) as recording:
                sites = [
                    (site.allocated_bytes, site.allocated_count, stack)
                    for site in recording.sites
                    if site.allocated_count and (stack := recording.stack(site.key.stack_key)) is not None
                ]
    return Stressed(truth, report, sites)


@pytest.fixture(scope="module", params=[DEBIAN, *jdks.RELEASES] if IS_WHOLE else ["21"])
def run(request):
    return stressed(request.param, LOADS + MORE_LOADS.get(request.param, []))


def functions(stack: Stack) -> list[str]:
    return [frame.function for frame in stack.frames]


def test_java_stacks_under_stress_reach_the_root_or_are_marked(run):
    broken = Counter()
    for _, count, stack in run.sites:
        if stack.end != "root":
            broken[f"{stack.end}: " + " < ".join(functions(stack)[-4:])] += count
    print(
        f"{len(run.sites)} sites, {sum(site[1] for site in run.sites)} events; complete by bytes "
        f"{run.share_complete(0):.5%}, by count {run.share_complete(1):.5%}; rounds {run.truth['rounds']}"
    )
    for text, count in broken.most_common(8):
        print(f"  {count} {text}")
    assert run.share_complete(0) >= MIN_SHARE
    assert run.share_complete(1) >= MIN_SHARE
    assert all(stack.truncated for _, _, stack in run.sites if stack.end != "root")
    assert min(run.truth["rounds"].values()) > 0


@pytest.mark.parametrize("method", ["Deflater", "Inflater"])
def test_java_stacks_through_zlib_name_the_native_method(run, method):
    zlib = "deflateInit2_" if method == "Deflater" else "inflateInit2_"
    through = [names for _, _, stack in run.sites if zlib in (names := functions(stack))]
    # The JVM unpacks classes from its own image with zlib, too: no Inflater.
    through = [names for names in through if not any("ImageFileReader" in name for name in names)]
    assert through
    assert [names for names in through if f"Java_java_util_zip_{method}_init" not in names] == []
    assert [names for names in through if not MARKS & {*names} and f"java.util.zip.{method}.init" not in names] == []


def test_java_stacks_through_native_code_without_frame_pointers_are_whole(run):
    own = [stack for _, _, stack in run.sites if "Java_Stress_allocate" in functions(stack)]
    assert own
    for stack in own:
        names = functions(stack)
        assert stack.end == "root", names
        assert all(frame.found is not FrameSource.GAP for frame in stack.frames), names
        if not MARKS & {*names}:
            assert names.count("Stress.deeper") == (4 if "Stress.calledBack" in names else 5), names
    whole = [names for names in map(functions, own) if not MARKS & {*names}]
    back = [names for names in whole if "Java_Stress_backAndForth" in names]
    assert back
    assert all(
        names.index("Stress.calledBack") < names.index("call_back") < names.index("Stress.jni") for names in back
    )
    attached = [names for names in whole if "run_attached" in names]
    assert attached
    assert all(names.index("Stress.calledBack") < names.index("run_attached") for names in attached)


def test_java_threads_have_their_whole_names_to_the_end_and_beyond(run):
    threads = {thread["name"]: thread for thread in run.report["threads"]}
    assert {*run.truth["rounds"]} <= {*threads}
    assert [name for name, thread in threads.items() if name in run.truth["rounds"] and not thread["alive"]] == [
        f"{LONG_NAME}files"
    ]


def test_java_virtual_threads_go_on_in_their_carrier(run):
    stacks = [stack for _, _, stack in run.sites if "Stress.sleepAndAllocate" in functions(stack)]
    if not any(name.endswith("virtual") for name in run.truth["rounds"]):
        assert stacks == []
        return
    n_cut = n_early = 0
    for stack in stacks:
        names = functions(stack)
        marks = [i for i, name in enumerate(names) if name.startswith("[virtual thread")]
        if stack.end != "root":
            assert marks, names
            n_early += 1
        elif marks:
            n_cut += 1
            assert CARRIER & {*names[marks[0] :]}, names
        else:
            assert CARRIER & {*names}, names
    print(f"{len(stacks)} stacks of virtual threads, {n_cut} cut at the barrier, {n_early} ended there")
    assert n_cut > 0
    # JDK 21: what leads on to the carrier is known a moment after the first virtual thread ran.
    assert n_early < n_cut
