"""Java stacks against the truth: the size of each block tells the names of all frames above the call.

``targets/java/Truth.java`` looks its own frames up before each allocation. The whole matrix of JDKs, compilers and
collectors runs where ``NATIVELEAK_TEST_JAVA=all``: it takes minutes.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nativeleak.model import Frame, FrameKind, Kind, SiteTotals, Stack
from nativeleak.recording.reader import open_recording
from nativeleak.runtimes.hotspot.names import STALE, UNREADABLE
from stacks import await_snapshots
from support import Target, Trace, Truth, java_launcher, require, target_path
from targets import jdks
from targets.jdks import DEBIAN

pytestmark = pytest.mark.jvm

N_EVENTS = int(os.environ.get("NATIVELEAK_TEST_EVENTS", "20011"))
"""Less on an emulated machine, which is ten times slower."""
MIN_BYTES = 4096
PACE = ("--interval", "0.5s")
JAVA_KINDS = {FrameKind.JAVA_COMPILED, FrameKind.JAVA_INLINED, FrameKind.JAVA_INTERPRETED}
MARKS = {STALE, UNREADABLE}
ALLOCATORS = [
    "jdk.internal.misc.Unsafe.allocateMemory0",
    "jdk.internal.misc.Unsafe.allocateMemory",
    "sun.misc.Unsafe.allocateMemory",
]

MIXED = ("mixed", ())
COMPILERS = (
    ("interpreted", ("-Xint",)),
    ("c1", ("-XX:TieredStopAtLevel=1",)),
    ("c1 profiled", ("-XX:TieredStopAtLevel=3",)),
    ("c2", ("-XX:-TieredCompilation",)),
    ("compiled", ("-Xcomp",)),
)
COLLECTORS = (
    ("serial", ("-XX:+UseSerialGC",)),
    ("parallel", ("-XX:+UseParallelGC",)),
    ("zgc", ("-XX:+UnlockExperimentalVMOptions", "-XX:+UseZGC")),
    ("shenandoah", ("-XX:+UnlockExperimentalVMOptions", "-XX:+UseShenandoahGC")),
)
SMALL_CACHE = "-XX:ReservedCodeCacheSize=4m"
HASTY = {SMALL_CACHE, "-XX:+UseZGC"}
"""Where code is thrown away soon after it was used last, it may be before its names are read."""
N_PACED, PORTION = 5003, 199
"""Events in such modes, and how many of them at a time: names wait half a second at most then (``_NAMING_SHARE`` of
run.py gives them a tenth of the recorder's time); one flush of the code cache in that half second costs a portion."""
LAYOUTS = (
    ("no compressed oops", ("-XX:-UseCompressedOops",)),
    ("one code heap", ("-XX:-SegmentedCodeCache",)),
    ("three code heaps", ("-XX:+SegmentedCodeCache", "-XX:ReservedCodeCacheSize=240m")),
    ("no class data sharing", ("-Xshare:off",)),
    ("small code cache", (SMALL_CACHE, "-XX:-SegmentedCodeCache")),
)
RUNS = [(release, *MIXED) for release in (DEBIAN, "11", "21", "25")] + [
    (DEBIAN, *COMPILERS[0]),
    (DEBIAN, *COMPILERS[3]),
]
MORE = [
    (release, *options)
    for release in (DEBIAN, *jdks.RELEASES)
    for options in (*COMPILERS, *COLLECTORS, *LAYOUTS)
    if (release, *options) not in RUNS
]
IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"


def is_hasty(release: str, options: tuple[str, ...]) -> bool:
    """Whether this JVM throws code away before its names can be read."""
    return bool(HASTY & {*options}) or (release == "25" and "-XX:+UseShenandoahGC" in options)


@dataclass(slots=True)
class Comparison:
    """What a trace says, held against a truth.

    Attributes:
        wrong: Each stack with a wrong name, for people.
        n_events: Allocations compared.
        n_wrong: Those of a wrong stack.
        n_marked: Those whose stack is marked: a frame is stale or unreadable, or it is truncated.
        kinds: Frames compared, by how their code came to be.
    """

    wrong: list[str] = field(default_factory=list)
    n_events: int = 0
    n_wrong: int = 0
    n_marked: int = 0
    kinds: Counter[FrameKind] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind.value} {count}" for kind, count in sorted(self.kinds.items()))
        return f"{self.n_events} events, {self.n_wrong} wrong, {self.n_marked} marked; frames: {kinds}"


def traced(
    release: str, options: tuple[str, ...], n: int, *arguments: object, program: str = "Truth", portion: int = 0
) -> Comparison:
    """Run a program that allocates through OwnStack in a JVM under a trace, and compare.

    Args:
        portion: Allocate so many times, then wait until the stacks have had time to get their names; 0: all at once.
    """
    folder = target_path(program)
    command = [java_launcher(release), "-Xmx256m", *options, "-cp", folder, program]
    try:
        target = Target(program, *arguments, command=command)
    except AssertionError as error:
        require(
            "not supported" not in str(error) and "Unrecognized" not in str(error), f"JDK {release} has no such mode"
        )
        raise
    with target, Trace(target, options=["--min-size", MIN_BYTES, "--max-depth", 512, *PACE]) as trace:
        for first in range(0, n, portion or n):
            truth = target.ask(f"go {min(portion or n, n - first)}")
            if portion:
                await_snapshots(trace, 2)
        trace.stop()
        with open_recording(trace.recording) as recording:
            stacks = [(site, recording.stack(site.key.stack_key)) for site in recording.sites]
    return compared(truth, [(site, stack) for site, stack in stacks if stack is not None])


def compared(truth: Truth, sites: list[tuple[SiteTotals, Stack]]) -> Comparison:
    """Hold each site that came from the truth against what its size tells."""
    known = {stack["bytes"]: stack for stack in truth["stacks"]}
    result = Comparison()
    for site, stack in sites:
        if site.key.kind is not Kind.HEAP or not is_own(stack):
            continue
        frames = [frame for frame in stack.frames if frame.kind in JAVA_KINDS or frame.function in MARKS]
        result.n_events += site.allocated_count
        result.kinds.update(frame.kind for frame in frames)
        is_marked = stack.truncated or any(frame.function in MARKS for frame in frames)
        result.n_marked += site.allocated_count if is_marked else 0
        size, rest = divmod(site.allocated_bytes, site.allocated_count)
        if rest or size not in known:
            if not is_marked:
                result.wrong.append(f"{site.allocated_bytes}/{site.allocated_count} at one stack: {_names(frames)}")
                result.n_wrong += site.allocated_count
        elif not (stack.truncated or fits(_names(frames), ALLOCATORS + known[size]["frames"])):
            result.wrong.append(_difference(size, frames, ALLOCATORS + known[size]["frames"]))
            result.n_wrong += site.allocated_count
    return result


def fits(found: list[str], wanted: list[str]) -> bool:
    """Tell whether names agree, where a mark may stand for any one frame and those inlined there."""
    places = {0}  # in the wanted names, after what has been looked at
    for name in found:
        if name in MARKS:
            places = set(range(min(places, default=len(wanted)) + 1, len(wanted) + 1))
        else:
            places = {place + 1 for place in places if place < len(wanted) and wanted[place] == name}
    return len(wanted) in places


def is_own(stack: Stack) -> bool:
    """Tell whether it is the truth that allocates here, not the JVM, for a call of the truth's for one."""
    native = list(itertools.takewhile(lambda frame: frame.kind is FrameKind.NATIVE, stack.frames))
    return [frame.function.split("(")[0] for frame in native] in (
        ["malloc", "os::malloc", "Unsafe_AllocateMemory0"],
        ["malloc", "Unsafe_AllocateMemory0"],  # JDK 11: os::malloc jumps to malloc
        ["malloc", "os::malloc"],  # JDK 25: Unsafe_AllocateMemory0 jumps there
    ) and any(frame.function in {"OwnStack.allocate", *MARKS} for frame in stack.frames)


def _names(frames: list[Frame] | tuple[Frame, ...]) -> list[str]:
    return [frame.function for frame in frames]


def _difference(size: int, frames: list[Frame], wanted: list[str]) -> str:
    found = _names(frames)
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
    around = [f"{frame.function} [{frame.kind.value}]" for frame in frames[max(0, at - 2) : at + 3]]
    return (
        f"{size}: {len(found)} frames, truth {len(wanted)}; at {at} {around}, truth {wanted[max(0, at - 2) : at + 3]}"
    )


def case(release: str, name: str, options: tuple[str, ...]):
    return pytest.param(release, options, id=f"{release}-{name}".replace(" ", "-"))


CASES = [case(*run) for run in (RUNS + MORE if IS_WHOLE else RUNS)]
HASTY_CASES = [
    case(*run) for run in MORE if is_hasty(run[0], run[2]) and (IS_WHOLE or run[:2] == (DEBIAN, "small code cache"))
]


@pytest.mark.parametrize(("release", "options"), CASES)
def test_java_stacks_have_the_names_that_their_sizes_tell(release, options):
    is_paced = is_hasty(release, options)
    n, portion = (N_PACED, PORTION) if is_paced else (N_EVENTS, 0)
    result = traced(release, options, n, portion=portion)
    print(f"{release} {options}: {result}")
    assert result.wrong == []
    assert result.n_events == n
    assert result.n_marked <= (portion if is_paced else n // 1000)


@pytest.mark.parametrize(("release", "options"), HASTY_CASES)
def test_java_code_that_goes_while_its_names_wait_is_marked_and_never_named_wrongly(release, options):
    # How many are marked depends on how fast this machine names: all, where code lives shorter than names wait.
    result = traced(release, options, N_EVENTS)
    print(f"{release} {options}: {result}")
    assert result.wrong == []
    assert result.n_events == N_EVENTS


@pytest.mark.parametrize("mode", [(), ("-Xint",)] if IS_WHOLE else [()], ids=" ".join)
@pytest.mark.parametrize("release", jdks.RELEASES if IS_WHOLE else ["11"])
def test_java_stacks_with_classes_from_an_archive_have_their_names(release, mode, tmp_path):
    archive = f"-XX:SharedArchiveFile={tmp_path / 'classes.jsa'}"  # these builds come without one
    subprocess.run([java_launcher(release), "-Xshare:dump", archive], check=True, capture_output=True)
    result = traced(release, (*mode, "-Xshare:on", archive), N_EVENTS)
    print(f"{release} archive {mode}: {result}")
    assert result.wrong == []
    assert result.n_events == N_EVENTS
    assert result.n_marked <= N_EVENTS // 1000


@pytest.mark.parametrize("release", [DEBIAN, "25"] if IS_WHOLE else ["25"])
def test_java_frames_whose_code_became_invalid_keep_their_names(release):
    result = traced(release, (), N_EVENTS, 1, 101)
    print(f"{release} invalid code: {result}")
    assert result.wrong == []
    assert result.n_events == N_EVENTS
    assert result.n_marked <= N_EVENTS // 1000


def agent(folder: Path, room: Path) -> str:
    """The option that gives Classes what it needs to redefine a class."""
    archive = room / "agent.jar"
    with zipfile.ZipFile(archive, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Premain-Class: Classes\nCan-Redefine-Classes: true\n")
        jar.write(folder / "Classes.class", "Classes.class")
    return f"-javaagent:{archive}"


@pytest.mark.parametrize(
    ("release", "options"),
    [
        pytest.param(DEBIAN, (), id="debian-mixed"),
        pytest.param("25", (), id="25-mixed"),
        pytest.param(DEBIAN, ("-Xint",), id="debian-interpreted"),
        pytest.param("25", ("-Xint",), id="25-interpreted"),
    ],
)
def test_java_methods_redefined_on_the_stack_keep_their_names(release, options, tmp_path):
    result = traced(release, (*options, agent(target_path("Classes"), tmp_path)), 101, 0, program="Classes")
    print(f"{release} redefined {options}: {result}")
    assert result.wrong == []
    assert result.n_events == 202


@pytest.mark.parametrize("options", [(), ("-Xint",)], ids=["mixed", "interpreted"])
@pytest.mark.parametrize("release", [DEBIAN, "25"])
def test_java_classes_unloaded_never_give_a_wrong_name(release, options):
    result = traced(release, options, 499, 31, program="Classes")
    print(f"{release} unloaded {options}: {result}")
    assert result.wrong == []
    assert result.n_events == 499 * 31
