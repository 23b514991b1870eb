"""How a process ended that is not our child, from a descriptor that was opened while it lived.

Source: include/uapi/linux/pidfd.h (``struct pidfd_info``, ``PIDFD_GET_INFO``, ``PIDFD_INFO_EXIT``); the exit code is
there since Linux 6.15, once the parent has taken notice. Older kernels do not say.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import Final

_GET_INFO: Final = 0xC000FF0B | 64 << 16
"""_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info) for its first version of 64 bytes."""
_INFO: Final = struct.Struct("=QQ11Ii")
_INFO_EXIT: Final = 1 << 3
_STEP_S: Final = 0.01


def read_exit_status(pidfd: int, timeout_s: float = 0.5) -> int | None:
    """The status of a process that has ended, as wait(2) gives it; None where the kernel does not say.

    Args:
        pidfd: Of the process.
        timeout_s: How long its parent may take to notice its end.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        request = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
        try:
            fcntl.ioctl(pidfd, _GET_INFO, request)
        except OSError:
            return None
        mask, *_, status = _INFO.unpack(request)
        if mask & _INFO_EXIT:
            return int(status)
        if time.monotonic() >= deadline_s:
            return None
        time.sleep(_STEP_S)


def signal_of(status: int | None) -> int:
    """The signal that ended a process, 0 where none did or it is not known."""
    return os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
