"""The memory of a process as bytes: ``/proc/PID/mem``, opened and read.

Scope: any page that is asked for; ``residency`` says which are in memory, and a reader asks for no others.
"""

from __future__ import annotations

import os

from nativeleak.errors import CannotTraceError
from nativeleak.process.procfs import PTRACE_REMEDY, TargetGoneError


def open_memory(pid: int) -> int:
    """A descriptor of the memory of a process, for the caller to close.

    Raises:
        TargetGoneError: There is no such process.
        CannotTraceError: Its memory may not be read with these rights.
    """
    path = f"/proc/{pid}/mem"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TargetGoneError(f"reading {path} failed: process {pid} is gone") from error
    except OSError as error:
        raise CannotTraceError(f"reading {path} failed: {error.strerror}", PTRACE_REMEDY) from error


def read_into(fd: int, target: memoryview, address: int) -> int:
    """Fill a buffer from an address on.

    Args:
        fd: Of ``open_memory``.
        target: Bytes to fill.
        address: Of the first byte.

    Returns:
        Bytes read: fewer where memory was unmapped since it was listed, or the process is gone.
    """
    n_read = 0
    while n_read < len(target):
        try:
            n_more = os.preadv(fd, [target[n_read:]], address + n_read)
        except OSError:
            break
        if n_more <= 0:
            break
        n_read += n_more
    return n_read
