"""What steps of strace add up to, from real and made-up output; no strace is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.engines.strace.malloc_sizes import block_bytes, malloc_mark
from nativeleak.engines.strace.recorded import RecordedStrace, looks_like_strace, step_after
from nativeleak.errors import NativeleakError
from nativeleak.model import FrameKind, Kind, Owner, TargetEnd

DATA = Path(__file__).parents[1] / "data"
PAGE = 4096
MMAP = "mmap(NULL, {}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {:#x}"


def replay(path, pid=0):
    return RecordedStrace(path, os.open(path, os.O_RDONLY), pid)


@pytest.fixture
def recorded(tmp_path):
    def make(*lines, pid=0):
        path = tmp_path / "strace.txt"
        path.write_text("".join(line + "\n" for line in lines))
        return replay(path, pid)

    return make


def last(source, interval_s=10.0):
    snapshots = list(source.snapshots(interval_s))
    return snapshots[-1]


def held(snapshot, kind=Kind.MAP):
    return sum(site.outstanding_bytes for site in snapshot.sites if site.key.kind is kind)


def test_threads_of_real_output_hold_what_they_mapped():
    source = replay(DATA / "strace_threads.txt", 31312)
    threads = {}
    for snapshot in source.snapshots(10.0):
        threads |= {thread.uid: thread for thread in snapshot.threads}
    by_tid = {}
    for site in snapshot.sites:
        tid = threads[site.key.thread_uid].tid
        by_tid[tid] = by_tid.get(tid, 0) + site.outstanding_bytes
    # Each worker mapped three pages three times and unmapped one; the child's megabyte is not the target's.
    assert {tid: by_tid[tid] for tid in (31318, 31319, 31320)} == dict.fromkeys((31318, 31319, 31320), 6 * PAGE)
    assert threads[next(uid for uid, t in threads.items() if t.tid == 31318)].name == 'wor"k)er'
    assert held(snapshot, Kind.BRK) == 0x21000 + 2 * PAGE
    assert snapshot.counters["lost_events"] == snapshot.counters["unread_lines"] == 0
    assert snapshot.targets[0].end is TargetEnd.EXITED
    assert ("input", f"{DATA / 'strace_threads.txt'}: 1 other processes left out (-p takes one): 31321") in (
        source.take_notes()
    )


def test_java_blocks_are_recognised_by_their_size_and_stack():
    source = replay(DATA / "strace_java.txt")
    snapshot = last(source)
    stacks = {stack.key: stack for stack in source.take_stacks()}
    sites = [site for site in snapshot.sites if stacks[site.key.stack_key].frames[0].kind is FrameKind.STUB]
    chunks = [s for s in sites if stacks[s.key.stack_key].frames[0].function == "[16 MiB malloc served by mmap]"]
    assert [(site.outstanding_bytes, site.outstanding_count) for site in chunks] == [(2 * 16781312, 2)]
    names = [frame.function for frame in stacks[chunks[0].key.stack_key].frames]
    assert "os::malloc(unsigned long, MEMFLAGS)" in names
    assert "timer_settime+0x1a38" in names  # strace's guess at a function without a name of its own: not taken for one
    assert chunks[0].owner is Owner.PROGRAM


@pytest.mark.parametrize(
    ("length", "asked"),
    [(16781312, 16 << 20), (4 << 20 | PAGE, 4 << 20), (1 << 20 | PAGE, 1 << 20), (16 << 20, 0), (PAGE, 0), (69632, 0),
     (135168, 128 << 10), (20971520, 0)],
)  # fmt: skip
def test_block_bytes_is_a_page_less_than_a_round_mapping(length, asked):
    assert block_bytes(length) == asked


def test_malloc_mark_needs_malloc_in_the_stack_where_there_is_one():
    malloc = ("/usr/lib/libc.so.6(__mmap+0x13) [0x1]", "/usr/lib/libc.so.6(malloc+0x99) [0x2]")
    other = ("/usr/lib/libc.so.6(__mmap+0x13) [0x1]", "/opt/m(malloc_pool+0x1) [0x2]")
    assert malloc_mark(16781312, 3, 0x22, malloc) == "[16 MiB malloc served by mmap]"
    assert malloc_mark(16781312, 3, 0x22, other) == ""
    assert malloc_mark(16781312, 3, 0x22) == "[16 MiB malloc served by mmap]"
    assert malloc_mark(204800, 3, 0x22, malloc) == "[malloc of up to 204,784 bytes served by mmap]"
    assert malloc_mark(204800, 3, 0x22) == ""
    assert malloc_mark(16781312, 0, 0x22) == malloc_mark(16781312, 3, 0x4032) == malloc_mark(16781312, 3, 1) == ""


def test_failed_and_interrupted_calls_change_nothing(recorded):
    source = recorded(
        "7 " + MMAP.format(5 * PAGE, 0x10000),
        "7 munmap(0x10000, 4096) = -1 EINVAL (Invalid argument)",
        "7 mremap(0x10000, 20480, 40960, 0) = -1 ENOMEM (Cannot allocate memory)",
        "7 mmap(0x1, 5, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = -1 EINVAL (Invalid argument)",
        "7 mprotect(0x10000, 4096, PROT_NONE) = -1 EACCES (Permission denied)",
        "7 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = ? ERESTARTSYS (To be restarted)",
        "7 restart_syscall(<... resuming interrupted mmap ...>) = 0",
        "7 brk(0x5000) = ?",
    )
    assert held(last(source)) == 5 * PAGE


def test_thread_killed_inside_a_call_leaves_its_memory_gone(recorded):
    source = recorded(
        "7 " + MMAP.format(5 * PAGE, 0x10000),
        "7 munmap(0x10000, 4096 <unfinished ...>",
        "8 brk(NULL) = 0x9000",
        "7 <... munmap resumed> <unfinished ...>) = ?",
        "7 +++ killed by SIGKILL +++",
        "8 +++ killed by SIGKILL +++",
    )
    snapshot = last(source)
    assert held(snapshot) == 4 * PAGE
    assert (snapshot.targets[0].end, snapshot.targets[0].end_signal) == (TargetEnd.KILLED, 9)


def test_raw_and_verbose_constants_are_the_same_as_names(recorded):
    for style in ("0x3, 0x22", "0x3 /* PROT_READ|PROT_WRITE */, 0x22 /* MAP_PRIVATE|MAP_ANONYMOUS */"):
        source = recorded(f"7 mmap(NULL, 8192, {style}, -1, 0) = 0x10000", "7 mprotect(0x10000, 4096, 0) = 0")
        snapshot = last(source)
        assert held(snapshot) == PAGE
        assert sum(site.reserved_bytes for site in snapshot.sites) == PAGE


def test_program_started_by_strace_begins_after_its_exec_and_ends_at_the_next(recorded):
    source = recorded(
        '7 execve("/opt/server", ["server"], 0x7ffc /* 9 vars */) = 0',
        "7 brk(NULL) = 0x1000",
        "7 brk(0x3000) = 0x3000",
        "7 " + MMAP.format(PAGE, 0x10000),
        '7 execve("/opt/no", ["no"], 0x7ffc /* 9 vars */) = -1 ENOENT (No such file or directory)',
        "7 " + MMAP.format(PAGE, 0x20000),
        '7 execve("/opt/other", ["other"], 0x7ffc /* 9 vars */) = 0',
        "7 " + MMAP.format(PAGE, 0x30000),
    )
    snapshot = last(source)
    assert (held(snapshot), held(snapshot, Kind.BRK)) == (2 * PAGE, 2 * PAGE)
    assert snapshot.targets[0].end is TargetEnd.EXEC
    assert ("exec", "PID 7 replaced itself by another program: the window ends there") in source.take_notes()


def test_forked_child_is_another_process_and_can_be_asked_for(recorded):
    lines = (
        "7 " + MMAP.format(PAGE, 0x10000),
        "7 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = 8",
        "8 " + MMAP.format(3 * PAGE, 0x20000),
        "8 clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD, child_tid=0x7f} => {parent_tid=[9]}, 88) = 9",
        "9 " + MMAP.format(5 * PAGE, 0x30000),
        "7 clone3({flags=0x3d0f00, child_tid=0x7f} => {parent_tid=[10]}, 88) = 10",
        "10 " + MMAP.format(7 * PAGE, 0x40000),
    )
    assert held(last(recorded(*lines))) == 8 * PAGE
    assert held(last(recorded(*lines, pid=8))) == 8 * PAGE
    assert held(last(recorded(*lines, pid=7))) == 8 * PAGE
    with pytest.raises(NativeleakError, match="no calls of process 12"):
        recorded(*lines, pid=12)


def test_shared_segments_and_remaps(recorded):
    source = recorded(
        "7 shmget(IPC_PRIVATE, 8193, IPC_CREAT|0600) = 3",
        "7 shmat(3, NULL, 0) = 0x10000",
        "7 shmat(3, NULL, SHM_RDONLY) = 0x20000",
        "7 shmdt(0x10000) = 0",
        "7 " + MMAP.format(5 * PAGE, 0x30000),
        "7 mremap(0x30000, 20480, 45056, MREMAP_MAYMOVE) = 0x50000",
        "7 pkey_mprotect(0x50000, 4096, PROT_NONE, -1) = 0",
    )
    assert held(last(source)) == 3 * PAGE + 10 * PAGE


def test_snapshots_come_at_intervals_of_the_recorded_time(recorded):
    lines = [f"7 {1795640304 + i}.000000 " + MMAP.format(PAGE, 0x10000 * (i + 1)) for i in range(41)]
    source = recorded(*lines)
    snapshots = list(source.snapshots(10.0))
    assert source.started == 1795640304.0
    assert [s.elapsed_s for s in snapshots] == [2.0 * i for i in range(1, 20)] + [40.0]
    assert held(snapshots[0]) == 2 * PAGE
    assert held(snapshots[-1]) == 41 * PAGE
    assert step_after(2.0, 2.0, 9.0) == 10.0


@pytest.mark.parametrize(
    ("text", "is_strace"),
    [("7 brk(NULL) = 0x1000", True), ("[pid 7] read(3, 1) = 1", True), ("<... mmap resumed>) = 0", True), ("", False),
     ("#!/bin/sh", False), ("foo(bar)", False), ("7:   java -jar x", False)],
)  # fmt: skip
def test_looks_like_strace(text, is_strace):
    assert looks_like_strace(["", text]) is is_strace
