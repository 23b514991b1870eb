"""Which processes are refused, and with which words."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.errors import CannotTraceError, NoTargetError, UsageError
from nativeleak.process import check, procfs
from nativeleak.process.check import check_target

CHILD = """
import sys, threading
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
print(thread.native_id, flush=True)
sys.stdin.read()
done.set()
"""


@pytest.fixture
def child() -> Iterator[tuple[int, int]]:
    """A process with a second thread: (pid, tid)."""
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate("")


def test_check_target_ordinary_process_gives_its_facts(child: tuple[int, int]) -> None:
    pid, _ = child
    facts = check_target(pid)
    assert facts == check.TargetFacts(
        pid=pid,
        comm=Path(f"/proc/{pid}/comm").read_text().strip(),
        exe=str(Path(f"/proc/{pid}/exe").readlink()),
        start_ticks=procfs.read_start_ticks(pid),
        ns_pid=check.read_ns_pid(pid),
        same_mnt_ns=True,
        same_pid_ns=True,
    )


def test_check_target_no_such_process_says_so() -> None:
    pid = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    with pytest.raises(NoTargetError) as caught:
        check_target(pid)
    assert caught.value.what == f"trace of PID {pid} failed: no such process"
    assert caught.value.exit_status == 4


def test_check_target_number_beyond_any_pid_says_no_such_process() -> None:
    with pytest.raises(NoTargetError, match="no such process"):
        check_target(10**30)


@pytest.mark.parametrize("pid", [0, -5])
def test_check_target_no_pid_at_all_is_wrong_usage(pid: int) -> None:
    with pytest.raises(UsageError, match="not a process id"):
        check_target(pid)


def test_check_target_itself_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="that is nativeleak itself"):
        check_target(os.getpid())


def test_check_target_own_thread_is_wrong_usage() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(UsageError, match="a thread of nativeleak itself"):
            check_target(thread.native_id or 0)
    finally:
        done.set()
        thread.join()


def test_check_target_thread_id_names_its_process(child: tuple[int, int]) -> None:
    pid, tid = child
    with pytest.raises(UsageError) as caught:
        check_target(tid)
    comm = procfs.read_comm(pid)
    assert caught.value.what == f"trace of PID {tid} failed: it is a thread of process {pid} ({comm}), not a process"
    assert caught.value.remedy == f"Trace the process: -p {pid}"


def test_check_target_zombie_is_no_target() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NoTargetError) as caught:
            check_target(process.pid)
    assert caught.value.what == f"trace of PID {process.pid} failed: it has exited already (zombie)"
    assert str(os.getpid()) in caught.value.remedy


def test_check_target_kernel_thread_cannot_be_traced() -> None:
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    kernel_thread = next((pid for pid in pids if is_kernel_thread(pid)), None)
    if kernel_thread is None:
        pytest.skip("no kernel thread can be seen from this PID namespace")
    with pytest.raises(CannotTraceError, match="it is a kernel thread"):
        check_target(kernel_thread)


def is_kernel_thread(pid: int) -> bool:
    try:
        return procfs.is_kernel_thread(pid)
    except procfs.TargetGoneError:
        return False


# An i386 program that does nothing but pause(2): ELF header, one segment, mov $29,%eax; int $0x80; jmp back.
PAUSE_32 = (
    b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    + struct.pack("<8I", 1, 0, 0x8048000, 0x8048000, 93, 93, 5, 0x1000)
    + b"\xb8\x1d\0\0\0\xcd\x80\xeb\xf7"
)


def test_check_target_32_bit_process_cannot_be_traced(tmp_path: Path) -> None:
    program = tmp_path / "pause32"
    program.write_bytes(PAUSE_32)
    program.chmod(0o755)
    try:
        process = subprocess.Popen([program])
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error}")
    with process:
        try:
            with pytest.raises(CannotTraceError, match="it is a 32-bit process"):
                check_target(process.pid)
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_check_target_without_rights_names_the_capabilities() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            check_target(os.getppid())
        except CannotTraceError as error:
            os.write(writer, f"{error.what}|{error.remedy}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        what, _, remedy = pipe.read().partition("|")
    os.waitpid(child, 0)
    assert what == f"trace of PID {os.getpid()} failed: no permission to read its mappings"
    assert "CAP_SYS_PTRACE" in remedy
    assert "CAP_BPF" in remedy
