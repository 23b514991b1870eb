"""Which allocator probes are attached: by group, so that some can be taken away and put back while a trace runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

Close = Callable[[], None]
"""Detaches what one attach made; it waits for the kernel, some 50 ms."""


class Group(StrEnum):
    """What a probe is for."""

    FREES = "frees"
    REALLOCS = "reallocs"
    ALLOCATIONS = "allocations"


ALL_GROUPS: Final = frozenset(Group)
FREES_ONLY: Final = frozenset({Group.FREES, Group.REALLOCS})


@dataclass(slots=True)
class _Job:
    group: Group
    attach: Callable[[], list[Close]]
    owner: Hashable
    closes: list[Close] = field(default_factory=list)


class ProbeGroups:
    """All probes of allocator functions of a trace, attached or not."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self.wanted = ALL_GROUPS

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, group: Group, attach: Callable[[], list[Close]], owner: Hashable = None) -> None:
        """Take probes in, and attach them where their group is wanted.

        Args:
            owner: Probes of one owner can be attached anew.

        Raises:
            OSError: As the kernel says.
        """
        job = _Job(group, attach, owner)
        if group in self.wanted:
            job.closes = attach()
        self._jobs.append(job)

    def want(self, groups: frozenset[Group]) -> None:
        """Attach and detach until just these groups are attached. When this returns no program of another runs.

        Raises:
            OSError: As the kernel says; what could be attached then is.
        """
        self.wanted = groups
        closes = []
        for job in self._jobs:
            if job.group not in groups:
                closes += job.closes
                job.closes = []
        close_together(closes)
        # In their order: those of frees come first, so that no block is recorded whose free goes unseen.
        for job in self._jobs:
            if job.group in groups and not job.closes:
                job.closes = job.attach()

    def attach_anew(self, owner: Hashable) -> None:
        """Detach the probes of one owner and attach them again. Where that fails they are forgotten.

        Raises:
            OSError: As the kernel says.
        """
        jobs = [job for job in self._jobs if job.owner == owner and job.closes]
        close_together([close for job in jobs for close in job.closes])
        for job in jobs:
            job.closes = []
        try:
            for job in jobs:
                job.closes = job.attach()
        except OSError:
            self._jobs = [job for job in self._jobs if job.owner != owner]
            close_together([close for job in jobs for close in job.closes])
            raise

    def drop(self, first: int = 0) -> list[Close]:
        """Forget the probes from the ``first`` on; returns what detaches them."""
        closes = [close for job in self._jobs[first:] for close in job.closes]
        del self._jobs[first:]
        return closes


def close_together(closes: Sequence[Close]) -> None:
    """Detach all at once: each waits for the same grace periods of the kernel, and they can wait together."""
    threads = [threading.Thread(target=close, name="nativeleak-detach") for close in closes[1:]]
    for thread in threads:
        thread.start()
    for close in closes[:1]:
        close()
    for thread in threads:
        thread.join()
