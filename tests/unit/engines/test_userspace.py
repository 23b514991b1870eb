"""What the engines without BPF share, on the pmap engine, real processes, and steps of strace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nativeleak.engines.options import Budget, TraceOptions
from nativeleak.engines.pmap.engine import PmapEngine
from nativeleak.engines.strace.ledger import StraceLedger, Target
from nativeleak.engines.strace.reader import StraceReader
from nativeleak.engines.strace.stacks import StackNamer
from nativeleak.engines.threads import OTHER_THREADS, ThreadTable
from nativeleak.engines.userspace import TracedProcess
from nativeleak.errors import UsageError
from nativeleak.model import TargetEnd, TargetInfo
from nativeleak.process import procfs
from nativeleak.process.exit_status import read_exit_status
from session_engine import sleepers

CHILD = """
import mmap, sys
kept = []
print(flush=True)
for line in sys.stdin:
    kept.append(mmap.mmap(-1, int(line), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    print(flush=True)
"""


def info_of(pid):
    return TargetInfo(0, pid, procfs.read_comm(pid), procfs.read_exe(pid))


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.stacks, self.notes = [], []

    def add_stacks(self, stacks):
        self.stacks += stacks

    def note(self, what, text, *, is_shown=True):
        self.notes.append((what, text, is_shown))


class Mapper:
    """A process that maps memory when it is told to."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        self.info = info_of(self.process.pid)

    def map(self, n_bytes):
        self.process.stdin.write(f"{n_bytes}\n".encode())
        self.process.stdin.flush()
        self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def open_pmap(info, sink, **budget):
    return PmapEngine(TraceOptions((info.pid,), Path("x.nlk"), budget=Budget(**budget)), [info], sink)


def test_progress_shows_the_largest_regions_with_their_names():
    sink = Kept()
    with Mapper() as mapper:
        engine = open_pmap(mapper.info, sink)
        try:
            engine.start()
            mapper.map(41 << 20)
            engine.stop()
            progress = engine.progress(1)
        finally:
            engine.close()
    (row,) = progress.rows
    assert 41 << 20 <= row.outstanding_bytes < 42 << 20
    assert row.function == "[anonymous memory]"
    assert progress.outstanding_bytes >= 41 << 20
    assert (progress.outstanding_count, progress.n_sites) == (None, None)
    assert progress.rss_bytes > 1 << 20
    assert "[anonymous memory]" in {stack.frames[0].function for stack in sink.stacks}


def test_frozen_pmap_counts_regions_of_a_new_kind_together():
    sink = Kept()
    with Mapper() as mapper:
        engine = open_pmap(mapper.info, sink)
        try:
            engine.start()
            engine.freeze("much, near to a bound")
            mapper.map(41 << 20)
            engine.stop()
            progress = engine.progress(1)
        finally:
            engine.close()
    assert progress.rows[0].function == "[memory beyond --max-memory]"
    assert progress.rows[0].outstanding_bytes >= 41 << 20
    assert sink.notes[0] == (
        "memory", "the recorder takes much, near to a bound: new call sites are no longer told apart", True
    )  # fmt: skip


def test_target_that_ends_is_noted_once():
    sink = Kept()
    with sleepers() as (process,):
        info = info_of(process.pid)
        engine, pidfd = open_pmap(info, sink), os.pidfd_open(process.pid)
        try:
            engine.start()
            process.kill()
            process.wait()
            engine.target_exited(0)
            for _ in range(3):
                engine.work()
            is_said = read_exit_status(pidfd) is not None  # since Linux 6.15
        finally:
            engine.close()
            os.close(pidfd)
    how = "was ended by signal 9" if is_said else "has ended: how is not known"
    assert engine.targets[0].end is (TargetEnd.KILLED if is_said else TargetEnd.EXITED)
    assert sink.notes == [("exit", f"PID {process.pid} {how}", True)]


def test_memory_bound_below_what_the_recorder_has_already_is_refused():
    with sleepers() as (process,):
        info = info_of(process.pid)
        with pytest.raises(UsageError, match="--max-memory 1 MiB is too little: the recorder takes"):
            open_pmap(info, Kept(), max_memory_bytes=1 << 20)


def test_frozen_thread_table_knows_those_of_before_and_one_for_all_others():
    threads = ThreadTable()
    known = threads.uid(0, 7, "seven")
    threads.is_frozen = True
    others = {threads.uid(0, tid, f"t{tid}") for tid in range(8, 1017)}
    assert threads.uid(0, 7) == known
    assert [threads.name(uid) for uid in others] == [OTHER_THREADS]
    assert len(threads.take_changed()) == 2


def test_frozen_strace_keeps_the_sums_and_tells_new_stacks_apart_no_longer():
    target = Target(TracedProcess(0, TargetInfo(0, 7, "x", "")), StackNamer())
    ledger, reader = StraceLedger(lambda _tid: target), StraceReader(7)

    def feed(tid, address, function):
        call = f"mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {address:#x}"
        for line in (f"{tid} 1.000000 {call}", f" > /bin/x({function}+0x10) [0x1010]"):
            for step in reader.feed(line):
                ledger.apply(step)

    feed(7, 0x700000000000, "known")
    feed(7, 0x700000010000, "known")
    for step in reader.flush():
        ledger.apply(step)
    ledger.threads.is_frozen = target.namer.is_frozen = True
    feed(7, 0x700000020000, "known")
    feed(8, 0x700000030000, "unknown")
    feed(9, 0x700000040000, "another")
    for step in reader.flush():
        ledger.apply(step)
    by_site = {
        (ledger.threads.name(site.key.thread_uid), site.key.stack_key != 0): site.outstanding_bytes
        for site in target.process.sites(2.0)
    }
    assert by_site == {("[thread 7]", True): 3 * 8192, (OTHER_THREADS, False): 2 * 8192}
