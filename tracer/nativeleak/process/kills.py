"""Whether a process was ended by the OOM killer: counters of its memory groups, and its PID in the kernel's log.

Scope: yes or no, for one process, from a look before and a look after its end. ``inputs.oom`` reads all that a log says
about a kill. The log has the machine's own PIDs; in a container, where PIDs are others, the name of the process is
compared. Counters name nobody: alone they are believed only where the process was ended by SIGKILL, or where neither
the log nor the kernel tells more.

Source: Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control);
``__oom_kill_process`` in mm/oom_kill.c for the line of the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nativeleak.closing import Closing
from nativeleak.process.cgroups import read_group_folders
from nativeleak.process.exit_status import read_exit_status, signal_of
from nativeleak.process.kernel_log import KMSG, LogRecords
from nativeleak.process.pidns import read_inner_pid_namespace

_COUNTERS: Final = {1: "memory.oom_control", 2: "memory.events"}
_KILLS: Final = "oom_kill"
_MAX_BYTES: Final = 4096
_KILLED: Final = re.compile(rb"Killed process (\d{1,10})[ ,][^(]*\((.*)\)(?:,| UID| total-vm)")
_LATE_S: Final = 0.5
"""The victim may be gone before the kernel has logged its end, and it logs under a lock."""
_STEP_S: Final = 0.02


class KillCounters(Closing):
    """Kills that the memory groups of a process count, from now on; a context manager.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._counters: list[tuple[Path, int, int]] = []
        for version, folder in read_group_folders(pid):
            with contextlib.suppress(OSError):
                fd = os.open(folder / _COUNTERS[version], os.O_RDONLY | os.O_CLOEXEC)
                self._counters.append((folder, fd, _kills(fd) or 0))

    @property
    def is_empty(self) -> bool:
        """Whether no group counts kills here."""
        return not self._counters

    def risen(self) -> Path | None:
        """The innermost group that has counted a kill."""
        return next((folder for folder, fd, before in self._counters if (_kills(fd) or 0) > before), None)

    def close(self) -> None:
        """Close the files."""
        for _, fd, _ in self._counters:
            os.close(fd)
        self._counters.clear()


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended.

    Attributes:
        signal_number: Of the signal that ended it, 0 where none did or the kernel does not say.
        is_oom_kill: The kernel's OOM killer sent it.
        is_known: Whether anybody said how; without it neither a signal nor an end by itself is excluded.
    """

    signal_number: int = 0
    is_oom_kill: bool = False
    is_known: bool = True


class EndWatch(Closing):
    """Looks at one process from now on, so that its end can be told; a context manager.

    Args:
        pid: The process, which need not be our child.
        comm: Its name.
        log: The kernel's buffer.
    """

    def __init__(self, pid: int, comm: str, log: Path = KMSG) -> None:
        self._pid, self._comm = pid, comm.encode("utf-8", "surrogateescape")
        self._has_own_pids = read_inner_pid_namespace() is not None
        self._pidfd = -1
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(pid)
        self._counters = KillCounters(pid)
        self._log = LogRecords(log)

    def look(self, *, signal_number: int | None = None) -> ProcessEnd:
        """How the process ended, once it has.

        Args:
            signal_number: Of the signal that ended it, where it is known; 0: none did.
        """
        if signal_number is None and self._pidfd >= 0:
            status = read_exit_status(self._pidfd)
            signal_number = None if status is None else signal_of(status)
        if signal_number not in (None, signal.SIGKILL):
            return ProcessEnd(signal_number or 0)
        has_risen = self._counters.risen() is not None
        is_expected = has_risen or (signal_number == signal.SIGKILL and self._counters.is_empty)
        is_oom_kill = self._is_logged(_LATE_S if is_expected else 0.0) or (
            has_risen and (signal_number == signal.SIGKILL or not self._log.is_readable)
        )
        if is_oom_kill:
            return ProcessEnd(signal.SIGKILL, is_oom_kill=True)
        return ProcessEnd(signal_number or 0, is_known=signal_number is not None)

    def _is_logged(self, wait_s: float) -> bool:
        """Whether the log names the process as killed; a line of it may come late."""
        deadline_s = time.monotonic() + wait_s
        while self._log.is_readable:
            if any(self._names_it(record) for record in self._log.records()):
                return True
            if time.monotonic() >= deadline_s:
                break
            time.sleep(_STEP_S)
        return False

    def _names_it(self, record: bytes) -> bool:
        found = _KILLED.search(record)
        if found is None:
            return False
        return found[2] == self._comm if self._has_own_pids else int(found[1]) == self._pid

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._counters.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _kills(fd: int) -> int | None:
    """Kills that a group has counted; None where it does not count them, or is gone."""
    try:
        text = os.pread(fd, _MAX_BYTES, 0).decode("ascii", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == _KILLS and number.isdigit():
            return int(number)
    return None
