"""System calls by number: those that neither Python nor libbpf 1.1 has a function for.

Errors come as ``OSError`` with the kernel's errno; callers turn them into advice.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final

from nativeleak import arch

# The same on every machine. Source: include/uapi/asm-generic/unistd.h.
NR_FSOPEN, NR_FSCONFIG, NR_FSMOUNT = 430, 431, 432

_libc: Final = ctypes.CDLL(None, use_errno=True)

Argument = int | ctypes.Array[ctypes.c_char] | None


def system_call(number: int, *args: Argument) -> int:
    """Make a system call; returns its result.

    Raises:
        OSError: As the kernel says.
    """
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
    return _checked(result)


def number_of(name: str) -> int:
    """The number of a system call on this machine.

    Raises:
        OSError: ENOSYS: it is not known.
    """
    machine = arch.here()
    if name not in machine.syscalls:
        raise OSError(errno.ENOSYS, f"the number of {name} is not known on {machine.name}")
    return machine.syscalls[name]


def control(fd: int, request: int, argument: int) -> None:
    """An ioctl whose argument is a number.

    Raises:
        OSError: As the kernel says.
    """
    _checked(int(_libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(argument))))


def close_fds(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
