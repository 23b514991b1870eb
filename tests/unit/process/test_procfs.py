"""Parsers of /proc texts, and the readers on the test's own process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nativeleak.errors import CannotTraceError
from nativeleak.process import procfs
from nativeleak.process.procfs import MapEntry, TargetGoneError

MAPS = (
    "55d0c0a00000-55d0c0a01000 r--p 00000000 fd:01 1234                       /usr/bin/app\n"
    "55d0c0a01000-55d0c0a02000 r-xp 00001000 fd:01 1234                       /usr/bin/app\n"
    "55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0000001000 rwxp 00000000 00:00 0 \n"
    "7f0000010000-7f0000011000 r-xp 0002a000 00:2f 99                         /opt/my app/lib x.so (deleted)\n"
    "7f0000020000-7f0000021000 r-xs 00000000 00:01 7                          /tmp/a\\012b\\040c\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
)


def test_parse_maps_plain_and_anonymous_lines_are_read_exactly() -> None:
    entries = procfs.parse_maps(MAPS)
    assert len(entries) == 7
    assert entries[1] == MapEntry(0x55D0C0A01000, 0x55D0C0A02000, "r-xp", 0x1000, "fd:01", 1234, "/usr/bin/app", False)
    assert entries[2].path == "[heap]"
    assert entries[3] == MapEntry(0x7F0000000000, 0x7F0000001000, "rwxp", 0, "00:00", 0, "", False)
    assert entries[6].start == 0xFFFFFFFFFF600000
    assert [entry.executable for entry in entries] == [False, True, False, True, True, True, True]


def test_parse_maps_deleted_path_with_blanks_is_stripped_and_flagged() -> None:
    entry = procfs.parse_maps(MAPS)[4]
    assert (entry.path, entry.deleted, entry.offset) == ("/opt/my app/lib x.so", True, 0x2A000)


def test_parse_maps_escaped_newline_is_decoded_and_nothing_else() -> None:
    assert procfs.parse_maps(MAPS)[5].path == "/tmp/a\nb\\040c"


def test_parse_maps_path_with_other_line_separators_stays_one_line() -> None:
    text = "7f00-7f01 r-xp 00000000 fd:01 5        /tmp/x\r\x0b\x85y \n"
    assert [entry.path for entry in procfs.parse_maps(text)] == ["/tmp/x\r\x0b\x85y "]


def test_parse_maps_nonsense_lines_are_left_out() -> None:
    assert procfs.parse_maps("\n\nnonsense\n1-2 r-xp zz fd:01 5\n") == []


def test_parse_status_values_are_stripped() -> None:
    status = procfs.parse_status("Name:\tmy:app\nNSpid:\t812\t7\n\n")
    assert status == {"Name": "my:app", "NSpid": "812\t7"}


def test_parse_stat_comm_with_parenthesis_and_blanks_is_skipped() -> None:
    fields = procfs.parse_stat("12 (a) b (c) S " + " ".join(str(number) for number in range(4, 53)))
    assert fields[0] == "S"
    assert fields[19] == "22"  # starttime is field 22


def test_parse_stat_short_line_raises_value_error() -> None:
    with pytest.raises(ValueError, match="not a line"):
        procfs.parse_stat("12 (a) S 1")


def test_read_maps_own_process_holds_the_interpreter() -> None:
    exe = str(Path("/proc/self/exe").readlink())
    assert any(entry.path == exe and entry.executable for entry in procfs.read_maps(os.getpid()))
    assert procfs.read_exe(os.getpid()) == exe


def test_read_threads_named_thread_is_listed_by_tid() -> None:
    ready, done = threading.Event(), threading.Event()

    def run() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(b"w\xff (x) S")
        ready.set()
        done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        assert thread.native_id is not None
        assert procfs.read_threads(os.getpid())[thread.native_id] == "w\ufffd (x) S"
        assert procfs.read_comm(os.getpid(), thread.native_id) == "w\ufffd (x) S"
    finally:
        done.set()
        thread.join()


def test_read_rss_after_touching_memory_grows() -> None:
    before = procfs.read_rss(os.getpid())
    block = bytearray(b"x" * (32 << 20))
    assert procfs.read_rss(os.getpid()) - before >= (31 << 20)
    assert len(block) == 32 << 20


def test_read_cpu_s_own_process_agrees_with_times() -> None:
    times = os.times()
    assert procfs.read_cpu_s(os.getpid()) == pytest.approx(times.user + times.system, abs=0.1)


def test_read_start_ticks_own_process_is_the_stat_field() -> None:
    stat = Path("/proc/self/stat").read_text()
    assert procfs.read_start_ticks(os.getpid()) == int(stat[stat.rindex(")") + 2 :].split()[19])


def test_read_elf_class_interpreter_is_its_pointer_width() -> None:
    assert procfs.read_elf_class(os.getpid()) == 8 * struct.calcsize("P")


def test_read_boot_id_is_a_uuid() -> None:
    assert len(procfs.read_boot_id()) == 36


def test_is_kernel_thread_own_process_is_none() -> None:
    assert not procfs.is_kernel_thread(os.getpid())
    assert not procfs.is_zombie(os.getpid())


def test_is_zombie_unreaped_child_is_one_with_no_maps_and_no_exe() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.is_zombie(child.pid)
        assert procfs.read_maps(child.pid) == []
        assert procfs.read_exe(child.pid) == ""


@pytest.mark.parametrize(
    "read",
    [
        procfs.read_maps, procfs.read_comm, procfs.read_threads, procfs.read_exe, procfs.is_kernel_thread,
        procfs.is_zombie, procfs.read_elf_class, procfs.read_start_ticks, procfs.read_rss, procfs.read_cpu_s,
        procfs.read_status,
    ],
)  # fmt: skip
def test_readers_process_is_gone_raise_target_gone(read: object) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    with pytest.raises(TargetGoneError, match=f"process {child.pid} is gone"):
        read(child.pid)  # type: ignore[operator]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_read_maps_of_another_user_raises_cannot_trace() -> None:
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            procfs.read_maps(os.getppid())
        except CannotTraceError as error:
            os._exit(7 if "permission denied" in error.what and "CAP_SYS_PTRACE" in error.remedy else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_read_maps_executable_only_leaves_out_the_rest() -> None:
    code = [entry for entry in procfs.read_maps(os.getpid()) if entry.executable]
    assert code
    assert procfs.read_maps(os.getpid(), executable_only=True) == code
