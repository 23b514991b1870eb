"""Whether one process was ended by the OOM killer, by what was noted before and after its end.

Scope: the kernel's log from the beginning of a watch on, and the counters of kills of the memory groups that the
process is in. The log names the victim by the machine's own PID; in a container PIDs are others, and the log may not be
readable: there the counters are what is left, and they name nobody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nativeleak.closing import Closing
from nativeleak.inputs.oom.event import Event
from nativeleak.inputs.oom.reader import OomReader
from nativeleak.inputs.oom.sources import KernelLogTail
from nativeleak.process.kernel_log import KMSG
from nativeleak.process.kills import KillCounters
from nativeleak.process.pidns import read_inner_pid_namespace

_LATE_S: Final = 1.0
"""The victim may be gone before the kernel has logged its end, and it logs under a lock."""
_STEP_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Kill:
    """An OOM kill of the process.

    Attributes:
        event: What the kernel's log says; None where only a counter tells.
        group: Folder of the memory group whose counter rose; None where the log alone tells.
    """

    event: Event | None
    group: Path | None


class OomWitness(Closing):
    """Looks at one process from now on; a context manager.

    Args:
        pid: The process.
        comm: Its name, for a log that has other PIDs.
        log: The kernel's buffer.
    """

    def __init__(self, pid: int, comm: str, log: Path = KMSG) -> None:
        self._pid, self._comm = pid, comm
        self._has_own_pids = read_inner_pid_namespace() is not None
        self._log = KernelLogTail(log)
        self._counters = KillCounters(pid)

    def look(self, *, was_killed: bool | None = None) -> Kill | None:
        """The kill, after the process has ended; None where nothing tells of one.

        Args:
            was_killed: Whether SIGKILL ended it; None where that is not known. The log is waited for only if it may be.
        """
        if was_killed is False:
            return None
        deadline_s = time.monotonic() + _LATE_S
        reader = OomReader()
        while True:
            for line in self._log.lines():
                reader.feed(line)
            event = next((event for event in reader.events if self._is_it(event)), None)
            group = self._counters.risen()
            if event is not None:
                return Kill(event, group)
            is_expected = was_killed and self._log.is_readable and group is not None
            if not is_expected or time.monotonic() >= deadline_s:
                return Kill(None, group) if group is not None else None
            time.sleep(_STEP_S)

    def _is_it(self, event: Event) -> bool:
        if event.killer != "kernel" or not event.killed:
            return False
        return event.comm == self._comm if self._has_own_pids else event.pid == self._pid

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._counters.close()
