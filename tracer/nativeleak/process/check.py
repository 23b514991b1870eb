"""Whether a PID can be traced, and the facts about it that hold for the whole trace.

Scope: everything that can be known before anything is attached. Each reason to refuse is said with what to do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nativeleak.errors import CannotTraceError, NativeleakError, NoTargetError, UsageError
from nativeleak.process import procfs
from nativeleak.process.procfs import PTRACE_REMEDY, TargetGoneError


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What was found out about a process that can be traced.

    Attributes:
        pid: As our PID namespace sees it.
        comm: Name of the main thread.
        exe: Path of the executable as the target sees it.
        start_ticks: Clock ticks from boot to its start; with ``pid`` its identity.
        ns_pid: The PID in the target's own (innermost) PID namespace.
        same_mnt_ns: Whether it shares our mount namespace.
        same_pid_ns: Whether it shares our PID namespace.
    """

    pid: int
    comm: str
    exe: str
    start_ticks: int
    ns_pid: int
    same_mnt_ns: bool
    same_pid_ns: bool


def check_target(pid: int, *, any_width: bool = False) -> TargetFacts:
    """Make sure that ``pid`` is a process that can be traced.

    Args:
        pid: The process.
        any_width: Take 32-bit processes too.

    Raises:
        UsageError: It is no PID, a thread's id, or this process itself.
        NoTargetError: There is no such process, or it has exited already.
        CannotTraceError: It is a kernel thread or a 32-bit process, or these rights do not reach into it.
    """
    if pid <= 0:
        raise UsageError(f"trace of PID {pid} failed: not a process id", "Give a positive number.")
    if pid == os.getpid():
        raise UsageError(f"trace of PID {pid} failed: that is nativeleak itself", "Give the PID of another process.")
    try:
        status = procfs.read_status(pid)
        _refuse_what_is_no_process(pid, status)
        _refuse_unreadable(pid, any_width=any_width)
        return _facts(pid, status)
    except TargetGoneError as gone:
        raise _missing(pid) from gone


def read_ns_pid(pid: int) -> int:
    """The PID in the target's innermost PID namespace; ``pid`` itself on kernels before 4.1.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return _ns_pid(pid, procfs.read_status(pid))


def _missing(pid: int) -> NativeleakError:
    what = f"trace of PID {pid} failed: no such process"
    if not os.path.lexists("/proc/self/status"):
        return CannotTraceError(f"trace of PID {pid} failed: /proc is not mounted", "mount -t proc proc /proc")
    try:
        os.kill(pid, 0)  # signal 0 is never sent; it only asks whether there is somebody
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return NoTargetError(what, "ps -e lists the processes of this PID namespace; containers see only their own.")
    else:
        return NoTargetError(what, "It ended while it was looked at.")
    return CannotTraceError(
        f"trace of PID {pid} failed: it is hidden from this user", "Run as root: /proc is mounted with hidepid."
    )


def _refuse_what_is_no_process(pid: int, status: dict[str, str]) -> None:
    what = f"trace of PID {pid} failed:"
    tgid = int(status.get("Tgid", pid))
    if tgid == os.getpid():
        raise UsageError(f"{what} it is a thread of nativeleak itself", "Give the PID of another process.")
    if tgid != pid:
        raise UsageError(
            f"{what} it is a thread of process {tgid} ({procfs.read_comm(tgid)}), not a process",
            f"Trace the process: -p {tgid}",
        )
    if procfs.is_kernel_thread(pid):
        raise CannotTraceError(
            f"{what} it is a kernel thread ({procfs.read_comm(pid)})",
            "A kernel thread has no memory of its own; see /proc/slabinfo and /proc/vmallocinfo for the kernel's.",
        )
    if procfs.is_zombie(pid):
        parent = status.get("PPid", "?")
        raise NoTargetError(
            f"{what} it has exited already (zombie)", f"Its parent, process {parent}, has not taken notice yet."
        )


def _refuse_unreadable(pid: int, *, any_width: bool) -> None:
    try:
        maps = procfs.read_maps(pid)
        n_bits = procfs.read_elf_class(pid)
    except CannotTraceError as denied:
        if not isinstance(denied.__cause__, PermissionError):
            raise
        raise CannotTraceError(
            f"trace of PID {pid} failed: no permission to read its mappings",
            f"{PTRACE_REMEDY} Tracing with BPF also takes CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before kernel 5.8).",
        ) from denied
    if n_bits != 64 and not any_width:
        raise CannotTraceError(
            f"trace of PID {pid} failed: it is a {n_bits}-bit process",
            "BPF traces 64-bit processes only; others with --engine strace or pmap.",
        )
    if not maps:
        raise TargetGoneError(f"reading /proc/{pid}/maps failed: process {pid} is gone")


def _facts(pid: int, status: dict[str, str]) -> TargetFacts:
    return TargetFacts(
        pid=pid,
        comm=procfs.read_comm(pid),
        exe=procfs.read_exe(pid),
        start_ticks=procfs.read_start_ticks(pid),
        ns_pid=_ns_pid(pid, status),
        same_mnt_ns=_same_namespace(pid, "mnt"),
        same_pid_ns=_same_namespace(pid, "pid"),
    )


def _ns_pid(pid: int, status: dict[str, str]) -> int:
    ids = status.get("NSpid", "").split()
    return int(ids[-1]) if ids else pid


def _same_namespace(pid: int, name: str) -> bool:
    try:
        theirs, ours = Path(f"/proc/{pid}/ns/{name}").stat(), Path(f"/proc/self/ns/{name}").stat()
    except OSError:
        return True  # a kernel without this namespace has only one
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
