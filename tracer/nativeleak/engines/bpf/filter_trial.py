"""Whether a process under a seccomp filter survives a return probe on this kernel: tried on a child of our own.

On x86-64 a return probe is a system call of the target. Linux 6.11 to 6.13 show it to seccomp filters, and those of
container runtimes deny what they do not know.

Source: ``__secure_computing`` in kernel/seccomp.c, which leaves the call out since Linux 6.14.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import time
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.probes.returns import Plan

_SLOT: Final = abi.MAX_TARGETS - 1
"""The command line takes one target less."""
_BYTES: Final = 1009
_FIRST_UNKNOWN: Final = 335
_FIRST_KNOWN: Final = 424
"""System calls that filters written before Linux 6.11 do not know. Source: syscall_64.tbl."""
# Sources: include/uapi/linux/{filter,bpf_common,seccomp,prctl}.h.
_LOAD: Final = 0x20
_JUMP_GE: Final = 0x35
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO_ENOSYS: Final = 0x00050000 | 38
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_INSTRUCTION: Final = struct.Struct("=HBBI")
_FILTER: Final = (
    (_LOAD, 0, 0, 0),
    (_JUMP_GE, 2, 0, _FIRST_KNOWN),
    (_JUMP_GE, 0, 1, _FIRST_UNKNOWN),
    (_RETURN, 0, 0, _ERRNO_ENOSYS),
    (_RETURN, 0, 0, _ALLOW),
)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def survives_filter(programs: Programs, plan: Plan, path: str) -> bool:
    """Whether a child that denies unknown system calls lives on after a return probe.

    To be called before any window is open: the child's calls count in the counters.

    Args:
        plan: Malloc and free of our own C library, and how their ends are seen.
        path: That library.

    Raises:
        CannotTraceError: The probes cannot be attached.
        OSError: No child process can be made.
    """
    commands_read, commands = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(commands)
        _run_child(commands_read)
    os.close(commands_read)
    try:
        programs.add_target(_SLOT, pid, abi.Target(max_depth=abi.MAX_FRAMES, unwind=abi.Unwind.FP))
        try:
            with programs.attached_for_now():
                programs.attach_functions(_SLOT, pid, path, path, plan)
                programs.open_window(_SLOT, time.monotonic_ns())
                os.write(commands, b"g")
                _, status = os.waitpid(pid, 0)
                pid = 0
                programs.close_window(_SLOT)
        finally:
            programs.forget_target(_SLOT)
    finally:
        os.close(commands)
        if pid:
            os.waitpid(pid, 0)
    return not os.WIFSIGNALED(status)


def _run_child(commands: int) -> None:
    """Wait for the probes, deny unknown system calls, allocate, end. Never returns."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        library = ctypes.CDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
        library.free.restype, library.free.argtypes = None, (ctypes.c_void_p,)
        if os.read(commands, 1):
            deny_unknown(library)
            library.free(library.malloc(_BYTES))
    finally:
        os._exit(0)


def deny_unknown(library: ctypes.CDLL) -> None:
    """Deny this process, for good, the system calls that filters written before Linux 6.11 do not know.

    Args:
        library: The C library.
    """
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in _FILTER)
    buffer = ctypes.create_string_buffer(code)
    program = _FilterProgram(len(_FILTER), ctypes.addressof(buffer))
    library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    library.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
