"""What makes probes in allocator functions dangerous for a process: looked at before the first one is attached.

On x86-64 a return probe is a system call that the target makes from memory of the kernel's (335, since Linux 6.11).
Whoever intercepts the target's system calls and denies or repeats that one ends the target. A breakpoint of a debugger
on a probed instruction ends it too: the debugger keeps the kernel's breakpoint as the original byte, and puts it back.

Scope: the kernel's word on the process, and the bytes of its code.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from nativeleak import arch
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError
from nativeleak.process import procfs
from nativeleak.process.dispatch import has_syscall_dispatch

WITHOUT_PROBES: Final = "without probes in allocator functions: --maps-only or --engine pmap"
"""The way that is safe for every target."""
_FILTER: Final = "2"
_NOP5: Final = b"\x0f\x1f\x44\x00\x00"
_CALL: Final = b"\xe8"


@dataclass(frozen=True, slots=True)
class Hazard:
    """Why probes in allocator functions may end a process.

    Attributes:
        why: For a sentence about the process: ``"process 12 (gdb) traces it, …"``.
        remedy: What the user can do.
    """

    why: str
    remedy: str

    def refusal(self, pid: int) -> CannotTraceError:
        """The error that refuses the trace. ``auto`` takes no other engine for it: the user can remove the cause."""
        return MendableError(f"trace of PID {pid} failed: {self.why}", self.remedy)


def read_tracer(pid: int) -> int:
    """The process that traces a process by ptrace, as our PID namespace sees it; 0 for none.

    Raises:
        NativeleakError: The process is gone or hidden.
    """
    return int(procfs.read_status(pid).get("TracerPid", "0") or 0)


def name_process(pid: int) -> str:
    """A process for a message: ``process 12 (gdb)``."""
    try:
        return f"process {pid} ({procfs.read_comm(pid)})"
    except NativeleakError:
        return f"process {pid}"


def find_hazard(pid: int) -> Hazard | None:
    """Why probes may end a process; None where nothing is known.

    Raises:
        NativeleakError: The process is gone or hidden.
    """
    tracer = read_tracer(pid)
    if tracer:
        return Hazard(
            f"{name_process(tracer)} traces it: the target may end where a debugger's breakpoint meets a probe, or a"
            " sandbox denies the return probe",
            f"end the debugger or sandbox, or trace {WITHOUT_PROBES}",
        )
    if arch.here() is arch.X86_64 and has_syscall_dispatch(pid):
        return Hazard(
            "it handles its own system calls (syscall user dispatch): a return probe is one, and the target would end",
            f"trace {WITHOUT_PROBES}",
        )
    return None


def has_filter(pid: int) -> bool:
    """Whether a process runs under a seccomp filter.

    Raises:
        NativeleakError: The process is gone or hidden.
    """
    return procfs.read_status(pid).get("Seccomp") == _FILTER


def filters_deny_probes(release: str) -> bool:
    """Whether seccomp filters of this release of the kernel see return probes, on x86-64: Linux 6.11 to 6.13.

    A kernel of a distribution may have the change of 6.14 already: a trace tries it out (``filter_trial.py``).

    Args:
        release: As ``uname -r`` says it.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (6, 11) <= (int(found[1]), int(found[2])) < (6, 14)


def filter_hazard() -> Hazard:
    """The hazard of a seccomp filter on a kernel that lets filters deny return probes."""
    return Hazard(
        "it runs under a seccomp filter, and on this kernel filters deny return probes: the target would end",
        f"trace {WITHOUT_PROBES}, or use a kernel other than Linux 6.11 to 6.13",
    )


def is_patched(memory: bytes, original: bytes) -> bool:
    """Whether somebody has changed code, other than by breakpoints of the kernel's probes.

    Args:
        memory: The code as the process has it.
        original: The code as its file has it; compared as far as both go.
    """
    machine = arch.here()
    width = len(machine.breakpoint) or 1
    n, at = min(len(memory), len(original)), 0
    while at + width <= n:
        ours, files = memory[at : at + width], original[at : at + width]
        if ours == _CALL and original[at : at + len(_NOP5)] == _NOP5:
            at += len(_NOP5)
            continue
        if files != ours != machine.breakpoint:
            return True
        at += width
    return False


def read_code(pid: int, address: int, n_bytes: int) -> bytes:
    """Code of a process; empty where it cannot be read."""
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, n_bytes, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)
