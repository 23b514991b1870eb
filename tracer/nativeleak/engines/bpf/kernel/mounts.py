"""File systems of the kernel's own: the host's mounts, else private ones that nobody else sees.

A minimal host has tracefs not mounted, and tracepoints have no id without it. ``fsmount`` gives a mount that is in no
namespace: the host stays as it was, and the mount goes with its descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

from nativeleak.engines.bpf.kernel.system import NR_FSCONFIG, NR_FSMOUNT, NR_FSOPEN, system_call

_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_TRACEFS_FOLDERS: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


def mount_privately(kind: str) -> int:
    """Mount a file system of the kernel's own in no namespace; returns the descriptor that it goes with.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN.
    """
    fs_fd = system_call(NR_FSOPEN, ctypes.create_string_buffer(kind.encode()), _FSOPEN_CLOEXEC)
    try:
        system_call(NR_FSCONFIG, fs_fd, _FSCONFIG_CMD_CREATE, None, None, 0)
        return system_call(NR_FSMOUNT, fs_fd, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(fs_fd)


def read_debugfs(name: str) -> str:
    """A file of debugfs: the host's, else that of a private mount.

    Raises:
        OSError: There is none, or it may not be read.
    """
    with contextlib.suppress(OSError):
        return Path("/sys/kernel/debug", name).read_text()
    folder = mount_privately("debugfs")
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)) as file:
            return file.read()
    finally:
        os.close(folder)


class Tracefs:
    """The tracing file system: the host's where it is mounted, else a private mount.

    Attributes:
        private: It is a private mount.

    Raises:
        OSError: It is not mounted and may not be: EPERM without CAP_SYS_ADMIN.
    """

    def __init__(self) -> None:
        self.private = False
        self._dir_fd = -1
        for folder in _TRACEFS_FOLDERS:
            if Path(folder, "events").is_dir():
                self._dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                return
        self._dir_fd = mount_privately("tracefs")
        self.private = True

    def event_id(self, event: str) -> int:
        """Id of ``syscalls/sys_enter_mmap``.

        Raises:
            OSError: ENOENT where the kernel has no such event.
        """
        fd = self.open(f"events/{event}/id", os.O_RDONLY)
        try:
            return int(os.read(fd, 32))
        finally:
            os.close(fd)

    def open(self, name: str, flags: int) -> int:
        """Open a file of it; returns the descriptor.

        Raises:
            OSError: There is none, or it may not be opened so.
        """
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._dir_fd)

    def close(self) -> None:
        """Let go of the mount."""
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1
