"""What is read of a process to tell its mappings apart: smaps, and where its threads are in their stacks."""

from __future__ import annotations

from collections import abc
from pathlib import Path

from nativeleak.engines.pmap.regions import StackPointer
from nativeleak.errors import CannotTraceError, NativeleakError
from nativeleak.process import procfs
from nativeleak.process.procfs import PTRACE_REMEDY, TargetGoneError


def read_smaps(pid: int) -> str:
    """Text of /proc/PID/smaps.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    path = f"/proc/{pid}/smaps"
    try:
        return Path(path).read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TargetGoneError(f"reading {path} failed: process {pid} is gone") from error
    except OSError as error:
        raise CannotTraceError(f"reading {path} failed: {error.strerror}", PTRACE_REMEDY) from error


def parse_stack_pointer(text: str) -> int:
    """Stack pointer in a /proc/PID/task/TID/syscall, 0 where the thread was running.

    Source: ``proc_pid_syscall`` in fs/proc/base.c: the last two of the fields are stack and instruction pointer.
    """
    fields = text.split()
    if len(fields) < 3:
        return 0
    try:
        return int(fields[-2], 16)
    except ValueError:
        return 0


def read_stack_pointers(pid: int, names: abc.Mapping[int, str]) -> list[StackPointer]:
    """Where the threads are in their stacks, in order of address; those that run just now are left out.

    Args:
        pid: The process.
        names: Better names of some threads than the kernel has.
    """
    try:
        threads = procfs.read_threads(pid)
    except NativeleakError:
        return []
    found = []
    for tid, comm in threads.items():
        try:
            address = parse_stack_pointer(Path(f"/proc/{pid}/task/{tid}/syscall").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if address:
            found.append(StackPointer(address, tid, names.get(tid, comm)))
    return sorted(found)
