"""The processes of a trace: checked, held by a descriptor each, and named to the user when they are gone."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator, Sequence
from typing import Final

from nativeleak.closing import Closing
from nativeleak.errors import NativeleakError, NoTargetError
from nativeleak.model import TargetInfo
from nativeleak.process import procfs
from nativeleak.process.check import check_target
from nativeleak.runtimes.registry import identify

_GONE_S: Final = 0.2
"""A process ends at most so long after it has lost its mappings."""


class Targets(Closing):
    """The processes of one trace; a context manager, since it holds a descriptor of each.

    Args:
        pids: Which.
        any_width: 32-bit processes too.

    Attributes:
        infos: Facts by slot.
        slots: Descriptor that is readable once the process has ended -> slot.

    Raises:
        NativeleakError: One of them is none, or may not be traced.
    """

    def __init__(self, pids: Sequence[int], *, any_width: bool) -> None:
        self.slots: dict[int, int] = {}
        try:
            self.infos = tuple(self._take(slot, pid, any_width=any_width) for slot, pid in enumerate(pids))
        except BaseException:
            self.close()
            raise

    def _take(self, slot: int, pid: int, *, any_width: bool) -> TargetInfo:
        facts = check_target(pid, any_width=any_width)
        try:
            self.slots[os.pidfd_open(pid)] = slot
        except ProcessLookupError as error:
            raise NoTargetError(f"trace of PID {pid} failed: no such process") from error
        return TargetInfo(slot, pid, facts.comm, facts.exe, identify(pid, procfs.read_maps(pid)))

    @contextlib.contextmanager
    def told_if_gone(self) -> Iterator[None]:
        """Report a failure within as the end of a target where one has ended meanwhile.

        A process that ends loses its mappings first: it looks as if it had no allocator.

        Raises:
            NoTargetError: Something failed, and a target has ended.
        """
        try:
            yield
        except (NativeleakError, OSError) as error:
            with select.epoll() as poll:
                for pidfd in self.slots:
                    poll.register(pidfd, select.EPOLLIN)
                for pidfd, _ in poll.poll(_GONE_S):
                    pid = self.infos[self.slots[pidfd]].pid
                    raise NoTargetError(f"trace of PID {pid} failed: it ended before anything was recorded") from error
            raise

    def close(self) -> None:
        """Let go of all processes."""
        for pidfd in self.slots:
            os.close(pidfd)
        self.slots.clear()
