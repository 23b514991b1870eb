"""Four ways to attach the allocator programs to functions of a process, best first.

One session link for entry and return (Linux 6.13), links for many probes (6.6), perf events of their own, and perf
events of probes that tracefs defines. What is attached hangs on descriptors of this process: the kernel takes the
probes away however the process ends. Only of the last way definitions stay (``tracefs.py``).
"""

from __future__ import annotations

import errno
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple, Protocol

from nativeleak.engines.bpf.kernel import bpf, perf, tracefs
from nativeleak.engines.bpf.kernel.failures import NoLinksError
from nativeleak.engines.bpf.kernel.groups import Close, close_together
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from nativeleak.engines.bpf.kernel.shielded import shielded
from nativeleak.engines.bpf.kernel.system import close_fds

AT_EXITS: Final = ("on_exits_entry", "on_alloc_exit")
"""Programs that only functions need which are seen at their exits."""
AT_SITES: Final = ("on_site_call", "on_site_return")
"""Programs at call sites that are watched by themselves; only links attach them."""
_APART: Final = ("on_alloc_entry", "on_alloc_return", "on_free", *AT_EXITS)
ALL_PROGRAMS: Final = ("on_alloc_session", *_APART, *AT_SITES)
"""Allocator programs, of all ways."""
ASK_FOR_COOKIE: Final = ("on_alloc_entry", "on_free", *AT_EXITS)
"""Programs that ask for the cookie of their probe, of the ways that kernels without cookies have."""


class AttachMode(StrEnum):
    """How allocator probes are attached."""

    SESSION = "uprobe session"
    MULTI = "uprobe multi"
    PERF = "perf events"
    TRACEFS = "perf events by tracefs"


class Place(NamedTuple):
    """Where a probe goes: a file offset; and the cookie that the program gets there."""

    offset: int
    cookie: int


class Step(NamedTuple):
    """A program to attach to functions, at their return or where their probe is placed."""

    program: str
    at_return: bool = False


class LoadedPrograms(Protocol):
    """An object whose programs are in the kernel."""

    def program_fd(self, name: str) -> int:
        """Descriptor of a loaded program."""


class ProgramSource(LoadedPrograms, Protocol):
    """The loaded allocator programs, with the cookies of their probes."""

    def at_probe(self, name: str, cookie: int) -> AbstractContextManager[tuple[int, int]]:
        """A program for one probe: a descriptor, good until the context is left, and the cookie that the kernel keeps.

        Raises:
            OSError: The kernel refuses.
        """


class UprobeWay(Protocol):
    """One way to attach the allocator programs."""

    @property
    def mode(self) -> AttachMode:
        """Which it is."""

    @property
    def programs(self) -> Mapping[str, int]:
        """Programs that it attaches, and the attach type that each is loaded for; 0: none."""

    @property
    def allocation_steps(self) -> Sequence[Step]:
        """What is attached to a function that allocates, in this order.

        Returns before entries: an entry without its return would be a call that never ends.
        """

    @property
    def declines_returns(self) -> bool:
        """Whether the program at an entry can decline the return of that call."""

    def check_kernel(self) -> None:
        """Make sure, before anything is loaded, that the kernel may have this way.

        Raises:
            OSError: It has not, or we may not.
        """

    def check_loaded(self, loaded: LoadedPrograms) -> None:
        """Make sure that the loaded programs can be attached this way.

        Raises:
            NoLinksError: They cannot.
        """

    def attach(self, loaded: ProgramSource, step: Step, pid: int, path: str, places: Sequence[Place]) -> list[Close]:
        """Attach one program at all places of one file in one process, or at none; returns what detaches it.

        Raises:
            OSError: As the kernel says.
        """


class _Links(ABC):
    """Links for many probes: one a program and file."""

    mode: ClassVar[AttachMode]
    programs: ClassVar[Mapping[str, int]]

    def check_kernel(self) -> None:  # noqa: B027 - only a loaded program shows whether the kernel has such links
        """Nothing to look at."""

    def check_loaded(self, loaded: LoadedPrograms) -> None:
        """Try links that the kernel refuses in another way where it has none."""
        for name, attach_type in self.programs.items():
            # These are attached by links of a kind that another program shows.
            if name not in (*AT_EXITS, *AT_SITES) and not bpf.has_uprobe_links(loaded.program_fd(name), attach_type):
                raise NoLinksError(errno.EOPNOTSUPP, f"this kernel has no {self.mode} links")

    def attach(self, loaded: ProgramSource, step: Step, pid: int, path: str, places: Sequence[Place]) -> list[Close]:
        """Make one link."""
        (fd,) = shielded(lambda: [self.link(loaded, step, pid, path, places)])
        return [functools.partial(os.close, fd)]

    def link(self, loaded: ProgramSource, step: Step, pid: int, path: str, places: Sequence[Place]) -> int:
        """Make one link, not shielded; returns its descriptor."""
        offsets, cookies = [place.offset for place in places], [place.cookie for place in places]
        program_fd, attach_type = loaded.program_fd(step.program), self.programs[step.program]
        return bpf.link_uprobes(program_fd, attach_type, path, offsets, cookies, pid, at_return=step.at_return)


class SessionLinks(_Links):
    """One link for entry and return, whose program can decline the return."""

    mode = AttachMode.SESSION
    programs: ClassVar[Mapping[str, int]] = {
        "on_alloc_session": bpf.ATTACH_UPROBE_SESSION,
        **dict.fromkeys(("on_free", *AT_EXITS, *AT_SITES), bpf.ATTACH_UPROBE_MULTI),
    }
    allocation_steps: Final = (Step("on_alloc_session"),)
    declines_returns: Final = True


class MultiLinks(_Links):
    """A link for the entries and one for the returns."""

    mode = AttachMode.MULTI
    programs: ClassVar[Mapping[str, int]] = dict.fromkeys((*_APART, *AT_SITES), bpf.ATTACH_UPROBE_MULTI)
    allocation_steps: Final = (Step("on_alloc_return", at_return=True), Step("on_alloc_entry"))
    declines_returns: Final = False


class _Events(ABC):
    """Perf events: one a probe."""

    programs: ClassVar[Mapping[str, int]] = dict.fromkeys(_APART, 0)
    allocation_steps: Final = (Step("on_alloc_return", at_return=True), Step("on_alloc_entry"))
    declines_returns: Final = False

    def check_loaded(self, loaded: LoadedPrograms) -> None:  # noqa: B027
        """Perf events take any program."""

    def attach(self, loaded: ProgramSource, step: Step, pid: int, path: str, places: Sequence[Place]) -> list[Close]:
        """Make an event a place."""
        closes: list[Close] = []
        try:
            for offset, cookie in places:
                with loaded.at_probe(step.program, cookie) as (prog_fd, kept):
                    closes.append(self._attach_event(prog_fd, pid, path, Place(offset, kept), at_return=step.at_return))
        except BaseException:
            close_together(closes)
            raise
        return closes

    @abstractmethod
    def _attach_event(self, prog_fd: int, pid: int, path: str, place: Place, *, at_return: bool) -> Close:
        """Attach a program at one place."""


class PerfEvents(_Events):
    """Perf events that are probes themselves."""

    mode = AttachMode.PERF

    def check_kernel(self) -> None:
        """Look for the kernel's kind of perf events that are probes."""
        if not perf.has_uprobe_pmu():
            raise OSError(errno.ENODEV, "this kernel has no perf events that are probes in user programs")

    def _attach_event(self, prog_fd: int, pid: int, path: str, place: Place, *, at_return: bool) -> Close:
        attach = functools.partial(perf.attach_uprobe, prog_fd, pid, path, place.offset, place.cookie)
        return functools.partial(close_fds, shielded(lambda: attach(at_return=at_return)))


class TracefsEvents(_Events):
    """Perf events of probes that are defined in tracefs.

    Args:
        mount: None where tracefs is not available.
    """

    mode = AttachMode.TRACEFS

    def __init__(self, mount: Tracefs | None) -> None:
        self._mount = mount

    def check_kernel(self) -> None:
        """Look for the file that defines probes, and for the right to write to it."""
        if self._mount is None or not tracefs.can_define(self._mount):
            raise OSError(errno.EPERM, "no probes can be defined in tracefs")

    def _attach_event(self, prog_fd: int, pid: int, path: str, place: Place, *, at_return: bool) -> Close:
        assert self._mount is not None  # noqa: S101 - check_kernel has seen to it
        return tracefs.attach(self._mount, prog_fd, pid, path, place.offset, place.cookie, at_return=at_return)


def way_of(mode: AttachMode, mount: Tracefs | None) -> UprobeWay:
    """The way of a mode."""
    ways: dict[AttachMode, Callable[[], UprobeWay]] = {
        AttachMode.SESSION: SessionLinks,
        AttachMode.MULTI: MultiLinks,
        AttachMode.PERF: PerfEvents,
        AttachMode.TRACEFS: functools.partial(TracefsEvents, mount),
    }
    return ways[mode]()
