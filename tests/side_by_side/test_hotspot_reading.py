"""A real JVM read from outside: its layout, its code cache, its parked threads' stacks and names, on every JDK here.

The stacks are walked here in Python, as the kernel side does it, from the frame anchor of a parked thread, and held
against what the JVM itself says of that thread: the layout and the names are right together or not at all.
"""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from nativeleak.model import FrameKind, LimitKind
from nativeleak.runtimes.hotspot.codecache import read_code_cache
from nativeleak.runtimes.hotspot.flags import read_limits
from nativeleak.runtimes.hotspot.identity import packed
from nativeleak.runtimes.hotspot.jvm import THREAD_CURRENT, HotSpot
from nativeleak.runtimes.hotspot.layout import read_walker_config
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.methods import MethodReader
from nativeleak.runtimes.hotspot.names import STALE, UNREADABLE, JavaNamer
from nativeleak.runtimes.hotspot.nmethods import NmethodReader
from nativeleak.runtimes.hotspot.runtime import HotSpotRuntime
from nativeleak.runtimes.hotspot.threadlist import read_thread_list
from nativeleak.runtimes.hotspot.threads import ThreadNamer
from support import ROOT, Target, java_launcher
from targets.jdks import DEBIAN, RELEASES

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]

HERE = ROOT / "tests" / "targets"
IN_USE = 0  # nmethod::in_use (nmethod.hpp), the same in all of these
ALL = (DEBIAN, *RELEASES)
COMPILED = (FrameKind.JAVA_COMPILED, FrameKind.JAVA_INLINED)
JAVA = (*COMPILED, FrameKind.JAVA_INTERPRETED)
COLLECTORS = ("Serial", "Parallel", "G1", "Z", "Shenandoah")
MODES = {
    "interpreted": (["-Xint"], 20),
    "c1": (["-XX:TieredStopAtLevel=1"], 3000),
    "c2": (["-XX:-TieredCompilation"], 12000),
    "mixed": ([], 6000),
    "all-compiled": (["-Xcomp"], 0),
}
FLAGS = {
    "wide-oops": ["-XX:-UseCompressedOops"],
    "wide-classes": ["-XX:-UseCompressedOops", "-XX:-UseCompressedClassPointers"],
    "one-code-heap": ["-XX:-SegmentedCodeCache"],
    "no-cds": ["-Xshare:off"],
    "frame-pointers": ["-XX:+PreserveFramePointer"],
    "shifted-oops": ["-XX:HeapBaseMinAddress=32g"],
}
IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"


def sample(choices):
    """Each JDK with one of the choices, each choice with some JDK; all of them with all where that is wanted."""
    choices = list(choices)
    n = max(len(ALL), len(choices))
    rotated = [(ALL[i % len(ALL)], choices[i % len(choices)]) for i in range(n)]
    return [(jdk, choice) for jdk in ALL for choice in choices] if IS_WHOLE else rotated


@pytest.fixture(scope="session")
def class_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parked")
    subprocess.run(["javac", "--release", "11", "-g", "-d", folder, HERE / "Parked.java"], check=True)
    return folder


@pytest.fixture
def start(class_path):
    """Starts ``targets/Parked.java`` under a JDK with some flags."""
    targets = []

    def started(jdk, flags=(), warm_ups=3000):
        command = [java_launcher(jdk), "-Xmx64m", "-XX:+UnlockDiagnosticVMOptions", "-XX:+UnlockExperimentalVMOptions"]
        command += ["-XX:+ShowHiddenFrames", *flags, "-cp", class_path, "Parked", str(warm_ups)]
        targets.append(Target("Parked", command=command, timeout_s=120))
        return targets[-1]

    yield started
    for target in targets:
        target.close()


class Line(NamedTuple):
    function: str
    file: str | None
    line: int | None


def truth_lines(thread):
    """What the JVM says of a thread, names as a report has them."""
    lines = []
    for owner, method, file, line in thread["frames"]:
        owner = re.sub(r"(\$\$Lambda)\$\d+", r"\1", owner.split("/")[0])
        lines.append(Line(f"{owner}.{method}", file, line if line > 0 else None))
    return lines


def deopt_handlers(memory, config, blob):
    """Where frames of a compiled method return to once they were deoptimized."""
    fields = [blob + each for each in (config.deopt_handler, config.deopt_mh_handler) if each]
    if config.deopt_handler_bytes == 8:
        return {memory.u64(each) for each in fields}
    return {blob + memory.i32(each) for each in fields}


def walk(vm, config, namer, thread):
    """The Java frames of a parked thread from its anchor to its entry, with their names."""
    memory = vm.memory
    anchor = thread.address + config.thread_anchor
    sp, pc, fp = (memory.u64(anchor + each) for each in (config.anchor_sp, config.anchor_pc, config.anchor_fp))
    pc = pc or memory.u64(sp - 8)
    cache = read_code_cache(vm)
    frames = []
    for _ in range(1000):
        assert config.code_low <= pc < config.code_high
        if pc == config.call_stub_return:
            wrapper = memory.u64(fp + config.call_wrapper_offset)
            outer = memory.u64(wrapper + config.call_wrapper_anchor + config.anchor_sp)
            assert outer == 0 or outer > sp
            if outer == 0:
                return frames
            sp = outer
            pc = memory.u64(wrapper + config.call_wrapper_anchor + config.anchor_pc) or memory.u64(sp - 8)
            fp = memory.u64(wrapper + config.call_wrapper_anchor + config.anchor_fp)
            continue
        if config.interpreter_low <= pc < config.interpreter_high:
            method, bcp = memory.u64(fp - 24), memory.u64(fp - 64)
            facts = MethodReader(vm).read(method)
            frames.append(namer.interpreted(method, packed(bcp - facts.const_method, facts.cookie)))
            sp, pc, fp = memory.u64(fp - 8), memory.u64(fp + 8), memory.u64(fp)
            continue
        blob = cache.find_blob(memory, pc)
        if pc in deopt_handlers(memory, config, blob):
            pc = memory.u64(sp + memory.i32(blob + config.orig_pc))
        frames += namer.compiled(blob, memory.u32(blob + config.nmethod_compile_id), pc - blob)
        sp += 8 * memory.u32(blob + config.blob_frame_size)
        pc, fp = memory.u64(sp - 8), memory.u64(sp - 16)
    raise AssertionError("the stack does not end")


def check_stacks(target):
    """Hold what is read of every parked thread against the JVM's own truth; give the frames."""
    truth = target.ask("truth")
    found = []
    with HotSpot.open(target.pid) as vm:
        config = read_walker_config(vm)
        assert config.notes == ()
        namer = JavaNamer(vm)
        assert namer.missing == []
        threads = {each.tid: each for each in read_thread_list(vm)}
        for thread in truth:
            frames = walk(vm, config, namer, threads[thread["tid"]])
            java = [Line(each.function, each.file, each.line) for each in frames if each.kind in JAVA]
            assert java == truth_lines(thread)
            found += frames
        assert (namer.n_stale, namer.n_unreadable) == (0, 0)
    return found


def check_names(target, names):
    """Hold names of threads against the JVM's own truth."""
    assert {thread["tid"]: thread["name"] for thread in target.ask("truth")}.items() <= names.items()


@pytest.mark.parametrize(("jdk", "mode"), sorted({*sample(MODES), *((jdk, "mixed") for jdk in ALL)}))
def test_parked_stacks_equal_the_jvms_own(start, jdk, mode):
    flags, warm_ups = MODES[mode]
    kinds = {frame.kind for frame in check_stacks(start(jdk, flags, warm_ups))}
    if mode == "interpreted":
        assert FrameKind.JAVA_INTERPRETED in kinds
        assert not kinds & set(COMPILED)
        return
    assert FrameKind.JAVA_COMPILED in kinds
    # How much is inlined is left to the compiler. C1 nearly always inlines so small methods: on a busy machine one JVM
    # was seen that had not.
    for _ in range(0 if mode in ("c2", "mixed") else 4):
        if FrameKind.JAVA_INLINED in kinds:
            break
        kinds = {frame.kind for frame in check_stacks(start(jdk, flags, warm_ups))}
    assert mode in ("c2", "mixed") or FrameKind.JAVA_INLINED in kinds


@pytest.mark.parametrize(("jdk", "collector"), sample(COLLECTORS))
def test_stacks_and_thread_names_are_right_under_each_collector(start, jdk, collector):
    # ZGC keeps a thread's name out of reach for a while after a collection: have none before the first look.
    check_over_collections(start(jdk, [f"-XX:+Use{collector}GC", "-Xmx512m"]))


@pytest.mark.parametrize(("jdk", "flags"), sample(FLAGS))
def test_stacks_and_thread_names_are_right_with_flags(start, jdk, flags):
    check_over_collections(start(jdk, FLAGS[flags]))


@pytest.mark.parametrize(
    ("jdk", "flags"),
    [
        ("21", ["-XX:+UseZGC", "-XX:+ZGenerational", "-Xmx512m"]),
        ("25", ["-XX:+UseCompactObjectHeaders"]),
        ("25", ["-XX:+UseCompactObjectHeaders", "-XX:+UseZGC", "-Xmx512m"]),
    ],
)
def test_stacks_and_thread_names_are_right_with_newer_layouts(start, jdk, flags):
    check_over_collections(start(jdk, flags))


def check_over_collections(target):
    check_stacks(target)
    with HotSpot.open(target.pid) as vm:
        namer = ThreadNamer(vm)
        check_names(target, namer.read())
        for _ in range(3):
            target.ask("gc")
            check_names(target, namer.read())
    check_stacks(target)


@pytest.mark.parametrize("jdk", ALL)
def test_every_place_of_the_code_cache_has_a_name(start, jdk):
    only = ["-Xcomp", "-XX:CompileCommand=quiet"]
    only += [f"-XX:CompileCommand=compileonly,{each}::*" for each in ("Parked*", "java.lang.*")]
    target = start(jdk, only, 1)
    target.ask("truth")
    with HotSpot.open(target.pid) as vm:
        cache = read_code_cache(vm)
        namer, nmethods = JavaNamer(vm), NmethodReader(vm, cache)
        functions, n_places, n_inlined, refused = set(), 0, 0, []
        for blob in cache.blobs(vm.memory):
            assert cache.find_blob(vm.memory, blob) == blob
            compile_id = nmethods.compile_id(blob)
            # Code that is given up loses its method and its memory while it is looked at (JDK 11 and 17 sweep it).
            is_nmethod = nmethods.kind(blob) == "nmethod"
            if is_nmethod and vm.memory.u8(blob + vm.structs.field("nmethod::_state")) != IN_USE:
                continue
            frames = namer.compiled(blob, compile_id, 0)
            if not is_nmethod:
                continue
            functions.add(frames[-1].function)
            for offset in nmethods.return_offsets(blob):
                frames = namer.compiled(blob, compile_id, offset)
                n_places += 1
                n_inlined += len(frames) - 1
                assert all("0x" not in frame.function for frame in frames)
                assert [frame.kind for frame in frames] == [FrameKind.JAVA_INLINED] * (len(frames) - 1) + [
                    FrameKind.JAVA_COMPILED
                ]
                refused += [frame for frame in frames if frame.function in (STALE, UNREADABLE)]
    assert len([each for each in functions if each.startswith("Parked")]) >= 3
    assert n_places > 500
    assert n_inlined > 100
    assert refused == []
    assert namer.n_unreadable == 0


@pytest.mark.parametrize("jdk", ALL)
def test_layout_is_sane(start, jdk):
    target = start(jdk)
    with HotSpot.open(target.pid) as vm:
        config = read_walker_config(vm)
        threads = read_thread_list(vm)
        assert config.can_walk_java
        heap, direct = read_limits(vm)
        assert heap == (LimitKind.JAVA_HEAP, "MaxHeapSize", 64 << 20)
        assert direct == (LimitKind.DIRECT_MEMORY, "MaxDirectMemorySize", 64 << 20)
        assert config.code_low <= config.interpreter_low < config.interpreter_high <= config.code_high
        assert config.code_low <= config.call_stub_return < config.code_high
        assert 1 <= len(config.heaps) <= 4
        for low, high, segmap in config.heaps:
            assert config.code_low <= low < high <= config.code_high
            assert not config.code_low <= segmap < config.code_high
        assert all(each[1] <= other[0] for each, other in pairwise(sorted(config.heaps)))
        assert 1 << config.segment_shift in (64, 128, 256)
        assert config.call_wrapper_offset < 0
        assert (config.dtv_stride, config.tls_module > 0) == (16, True)
        assert {each.tid for each in threads} <= {int(path.name) for path in Path(f"/proc/{target.pid}/task").iterdir()}
        if config.return_barrier:
            assert config.code_low <= config.return_barrier < config.code_high
            assert config.thread_anchor < config.cont_entry < vm.structs.size("JavaThread")


def test_thread_pointer_is_found_without_the_symbol(start):
    target = start(DEBIAN)
    with HotSpot.open(target.pid) as vm:
        whole = read_walker_config(vm)
        del vm.libjvm.variables[THREAD_CURRENT]
        assert read_walker_config(vm) == whole


def test_code_of_another_compilation_is_stale(start):
    target = start(DEBIAN)
    with HotSpot.open(target.pid) as vm:
        cache = read_code_cache(vm)
        namer, nmethods = JavaNamer(vm), NmethodReader(vm, cache)
        blob = next(each for each in cache.blobs(vm.memory) if nmethods.kind(each) == "nmethod")
        compile_id = nmethods.compile_id(blob)
        assert namer.compiled(blob, compile_id, 0)[-1].kind is FrameKind.JAVA_COMPILED
        assert [frame.function for frame in namer.compiled(blob, compile_id + 1, 0)] == [STALE]
        assert [frame.function for frame in namer.compiled(blob, compile_id, 1 << 30)] == [STALE]
        assert [frame.function for frame in namer.compiled(4096, compile_id, 0)] == [UNREADABLE]


def test_reading_after_the_end_fails_softly(start):
    target = start(DEBIAN)
    with HotSpot.open(target.pid) as vm:
        namer = JavaNamer(vm)
        blob = next(read_code_cache(vm).blobs(vm.memory))
        target.close()
        vm.refresh()
        assert [frame.function for frame in namer.compiled(blob, 7, 1)] == [UNREADABLE]
        assert namer.interpreted(blob, blob).function == UNREADABLE
        assert HotSpotRuntime(vm).thread_names() == {}
        assert not read_walker_config(vm).can_walk_java


def test_process_without_a_jvm_is_refused():
    with pytest.raises(UnreadableError, match=r"no libjvm\.so"):
        HotSpot.open(os.getpid())
