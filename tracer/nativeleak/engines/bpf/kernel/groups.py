"""Which allocator probes are attached: by group, so that some can be taken away and put back while a trace runs."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from nativeleak.engines.bpf.kernel.failures import attach_error
from nativeleak.engines.bpf.kernel.shielded import shielded

Close = Callable[[], None]
"""Detaches what one attach made; it waits for the kernel, some 50 ms."""
Link = Callable[[], int]
"""Attaches by one link, not shielded; returns its descriptor."""


class Group(StrEnum):
    """What a probe is for."""

    FREES = "frees"
    REALLOCS = "reallocs"
    ALLOCATIONS = "allocations"
    SITES = "call sites"


ALL_GROUPS: Final = frozenset(Group)
FREES_ONLY: Final = frozenset({Group.FREES, Group.REALLOCS, Group.SITES})
SITES_ONLY: Final = frozenset({Group.SITES})
"""Call sites that are watched by themselves are watched all the time."""
_LEAST_TOGETHER: Final = 2
"""Jobs that are worth a child process for all of them."""


@dataclass(slots=True)
class _Job:
    group: Group
    attach: Callable[[], list[Close]]
    owner: Hashable
    link: Link | None = None
    name: str = ""
    closes: list[Close] = field(default_factory=list)


class ProbeGroups:
    """All probes of allocator functions of a trace, attached or not.

    Attributes:
        wanted: Groups that are attached.
        on_leave: Called before probes of some group are detached.
    """

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self.wanted = ALL_GROUPS
        self.on_leave: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(
        self,
        group: Group,
        attach: Callable[[], list[Close]],
        owner: Hashable = None,
        link: Link | None = None,
        name: str = "",
    ) -> None:
        """Take probes in, and attach them where their group is wanted.

        Args:
            owner: Probes of one owner can be attached anew.
            link: The same in one descriptor, where there is such a way: many jobs then take one child process.
            name: What to call their file in an error.

        Raises:
            OSError: As the kernel says.
        """
        job = _Job(group, attach, owner, link, name)
        if group in self.wanted:
            job.closes = attach()
        self._jobs.append(job)

    def want(self, groups: frozenset[Group]) -> None:
        """Attach and detach until just these groups are attached. When this returns no program of another runs.

        Raises:
            OSError: As the kernel says; what could be attached then is.
        """
        close_together(self._leave(groups))
        self._attach_all([job for job in self._jobs if job.group in groups and not job.closes])

    def hold_back(self) -> None:
        """Attach nothing of what is added from now on, until some groups are wanted."""
        self.wanted = frozenset()

    def attach_held(self) -> None:
        """Attach all that was held back, together: the first breakpoints do not wait for the last ones.

        Raises:
            CannotTraceError: The kernel refuses the probes of some file.
        """
        self.wanted = ALL_GROUPS
        held = [job for job in self._jobs if not job.closes]
        try:
            self._attach_all(held)
        except OSError:
            for job in held:
                try:
                    job.closes = job.closes or job.attach()
                except OSError as error:
                    raise attach_error(job.name, error) from error

    def fade(self, first: frozenset[Group], for_s: float, then: frozenset[Group]) -> None:
        """Detach in two steps: for some time the first groups stay, after it only the second ones.

        Nobody waits for the kernel between the steps, so that the first takes no longer than it should.
        """
        thread = threading.Thread(target=close_together, args=(self._leave(first),), name="nativeleak-detach")
        thread.start()
        time.sleep(for_s)
        close_together(self._leave(then))
        thread.join()

    def _leave(self, groups: frozenset[Group]) -> list[Close]:
        """Want just these groups; returns what detaches the others."""
        if self.wanted - groups:
            self.on_leave()
        self.wanted = groups
        closes: list[Close] = []
        for job in self._jobs:
            if job.group not in groups:
                closes += job.closes
                job.closes = []
        return closes

    def _attach_all(self, jobs: Sequence[_Job]) -> None:
        """In their order: those of frees come first, so that no block is recorded whose free goes unseen.

        Probes of a target that has ended are forgotten.
        """
        links = [job.link for job in jobs if job.link is not None]
        if len(links) == len(jobs) >= _LEAST_TOGETHER:
            try:
                fds = shielded(lambda: [link() for link in links])
            except ProcessLookupError:
                pass  # one of the targets has ended: the probes of the others are attached one by one
            else:
                for job, fd in zip(jobs, fds, strict=True):
                    job.closes = [functools.partial(os.close, fd)]
                return
        for job in jobs:
            try:
                job.closes = job.attach()
            except ProcessLookupError:
                self._jobs.remove(job)

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

    def drop_group(self, group: Group) -> None:
        """Detach and forget the probes of a group. When this returns none of its programs runs."""
        closes = [close for job in self._jobs if job.group is group for close in job.closes]
        self._jobs = [job for job in self._jobs if job.group is not group]
        close_together(closes)

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
