"""Whether a process has syscall user dispatch on: its system calls from outside of one range go to its SIGSYS handler.

Only ptrace says so, and only of a stopped thread. So only processes are asked that catch SIGSYS and have no seccomp
filter, which is the other reason to catch it: Wine, and programs that interpose system calls. Their threads stop one by
one for some microseconds. A thread that waits in ``epoll_wait`` and the like may see EINTR, as after SIGCONT.

Source: ``PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`` in include/uapi/linux/ptrace.h, Linux 6.4; ptrace(2), signal(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

from nativeleak.process import procfs

_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GET_CONFIG: Final = 0x4211
_WALL: Final = 0x40000000
"""__WALL of wait(2): threads too."""
_EVENT_STOP: Final = 128
_FOUND: Final = 1
_NOT_FOUND: Final = 0
_PAUSE_S: Final = 0.0001
_STOP_S: Final = 0.2
"""Longest time for one thread to stop: one in an uninterruptible sleep does not."""
_ALL_S: Final = 2.0
"""Longest time for all threads of a process."""


class _Config(ctypes.Structure):
    _fields_ = (
        ("mode", ctypes.c_uint64),
        ("selector", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    )


def catches_sigsys(status: dict[str, str]) -> bool:
    """Whether a process has a handler of SIGSYS though no seccomp filter sends it.

    Args:
        status: ``procfs.read_status``.
    """
    caught = int(status.get("SigCgt", "0"), 16)
    return bool(caught >> (signal.SIGSYS - 1) & 1) and status.get("Seccomp", "0") == "0"


def has_syscall_dispatch(pid: int) -> bool:
    """Whether a thread of a process has syscall user dispatch on; True where it may not be asked.

    False on kernels that do not tell: their return probes make no system call. A child asks: whatever happens, its end
    lets go of the threads.

    Raises:
        NativeleakError: The process is gone or hidden.
        OSError: No child process can be made.
    """
    if not catches_sigsys(procfs.read_status(pid)):
        return False
    tids = list(procfs.read_threads(pid))
    child = os.fork()
    if not child:
        status = _FOUND
        try:
            status = _FOUND if _any_has_dispatch(tids) else _NOT_FOUND
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != _NOT_FOUND


def _any_has_dispatch(tids: Iterable[int]) -> bool:
    until_s = time.monotonic() + _ALL_S
    for tid in tids:
        if time.monotonic() > until_s:
            break
        try:
            if _thread_has_dispatch(tid):
                return True
        except OSError as error:
            if error.errno == errno.ESRCH:
                continue  # the thread has ended
            return error.errno not in (errno.EIO, errno.EINVAL)
    return False


def _thread_has_dispatch(tid: int) -> bool:
    _ptrace(_SEIZE, tid)
    signum = 0
    try:
        _ptrace(_INTERRUPT, tid)
        status = _wait_stopped(tid)
        if status >> 16 != _EVENT_STOP and os.WIFSTOPPED(status):
            signum = os.WSTOPSIG(status)  # a signal came first: it is delivered when we let go
        config = _Config()
        _ptrace(_GET_CONFIG, tid, ctypes.sizeof(config), ctypes.addressof(config))
        return bool(config.mode)
    finally:
        with contextlib.suppress(OSError):  # one that has not stopped is let go by our end
            _ptrace(_DETACH, tid, 0, signum)


def _wait_stopped(tid: int) -> int:
    """Wait for a seized thread to stop; returns its wait status.

    Raises:
        ProcessLookupError: It ends, or does not stop in time.
    """
    until_s = time.monotonic() + _STOP_S
    while True:
        found, status = os.waitpid(tid, _WALL | os.WNOHANG)
        if found == tid and os.WIFSTOPPED(status):
            return status
        if found == tid or time.monotonic() > until_s:
            raise ProcessLookupError(errno.ESRCH, "the thread does not stop")
        time.sleep(_PAUSE_S)


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    library.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if library.ptrace(request, tid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
