"""Java programs after reports from the field, looked at once they have leaked: the class that holds is named."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from nativeleak.runtimes.hotspot.heap.graph import State
from nativeleak.runtimes.hotspot.heap.read import read_java_holders
from nativeleak.runtimes.hotspot.heap.result import HolderGroup, JavaHolders
from nativeleak.runtimes.hotspot.heap.text import holders_java_text
from support import IS_LONG, java_launcher
from support.native_blocks import read_native_blocks
from support.waiting import START_TIMEOUT_S, LineReader
from targets.build import build_target
from targets.jdks import DEBIAN

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Case:
    """A program, and who holds the most memory of it.

    Attributes:
        words: After the class path.
        is_it: Whether a group is the answer.
        n_found: How many blocks the answer has at least; None for all that the program has leaked.
        least: How many the program has leaked, by its own count, when it is looked at.
    """

    folder: str
    words: tuple[str, ...]
    is_it: Callable[[HolderGroup], bool]
    least: int
    release: str = DEBIAN
    options: tuple[str, ...] = ()
    jars: str = ""
    n_found: int | None = None


def _owned(holder: str, owner: str) -> Callable[[HolderGroup], bool]:
    return lambda group: (group.holder, group.state, group.owner) == (holder, State.STRONG, owner)


CASES = {
    "gzip_unended": Case(
        "gzip_unended",
        ("MetricsService",),
        _owned("java.util.zip.Deflater$DeflaterZStreamRef.address", "MetricsService.KEPT (java.util.ArrayList)"),
        80,
    ),
    "mmap_segments": Case(
        "mmap_segments",
        ("SegmentDirectory",),
        _owned("java.nio.DirectByteBuffer.address", "SegmentDirectory.GRAVE (java.util.ArrayList)"),
        10,
    ),
    "ffm_arena": Case(
        "ffm_arena",
        ("ForeignIndex",),
        # The block begins before the segment, which is aligned: the JDK keeps its address for the end of the arena.
        _owned("jdk.internal.foreign.SegmentFactories$1.val$allocationBase", "ForeignIndex.KEPT (java.util.ArrayList)"),
        150,
        "25",
        ("--enable-native-access=ALL-UNNAMED",),
    ),
    "zstd_streams": Case(
        "zstd_streams",
        ("EventArchiver",),
        # Dropped streams: those that no collection has taken away yet. What it took is nobody's any more.
        lambda group: group.holder == "com.github.luben.zstd.ZstdOutputStreamNoFinalizer.stream",
        20,
        n_found=1,
        options=("-Xms256m", "-Xmn160m"),
        jars=":/usr/share/java/zstd-jni.jar",
    ),
    "thread_leak": Case(
        "thread_leak",
        ("ClientFactory",),
        lambda group: group.holder == "java.lang.Thread.eetop" and group.root == "thread pool-*-thread-*",
        10,
    ),
}
CHOSEN = list(CASES) if IS_LONG else ["ffm_arena"]


@contextmanager
def running(case: Case) -> Iterator[int]:
    room = build_target(f"field_{case.folder}")
    command = [java_launcher(case.release), "-Xmx256m", *case.options, "-cp", f"{room}{case.jars}", *case.words]
    with subprocess.Popen(command, cwd=room, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        lines = LineReader(process.stdout.fileno())
        try:
            while True:
                line = lines.readline(START_TIMEOUT_S)
                assert line is not None, "the program ended"
                count = re.search(r"=\d+/(\d+)|=(\d+)", line)
                if count is not None and int(count[1] or count[2]) >= case.least:
                    break
            yield process.pid
        finally:
            process.kill()
            lines.close()


def look(pid: int) -> JavaHolders:
    return read_java_holders(pid, *read_native_blocks(pid, files=True))


@pytest.mark.parametrize("name", CHOSEN)
def test_class_that_holds_is_named_after_the_fact(name: str) -> None:
    case = CASES[name]
    with running(case) as pid:
        result = look(pid)
    found = [group for group in result.groups if case.is_it(group)]
    page = holders_java_text(result, show_all=True)
    assert sum(group.n_blocks for group in found) >= (case.n_found or case.least), page
    # The answer is the largest of all objects of its kind.
    assert found[0] == next(group for group in result.groups if group.holder == found[0].holder), page


@pytest.mark.parametrize(
    ("folder", "words"),
    [("jni_strings", ("NativeCodec", "./libcodec.so")), ("busy_slow_leak", ("RecordService", "20000"))]
    if IS_LONG
    else [("busy_slow_leak", ("RecordService", "20000"))],
)
def test_memory_that_no_java_object_has_is_said_to_be_of_none(folder: str, words: tuple[str, ...]) -> None:
    with running(Case(folder, words, lambda _: False, 0)) as pid:
        result = look(pid)
    of_program = [group for group in result.groups if group.owner or group.state in (State.CLEANER, State.NONE)]
    assert sum(group.n_blocks for group in of_program) <= 3, holders_java_text(result, show_all=True)
