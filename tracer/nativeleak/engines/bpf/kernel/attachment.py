"""Probes of allocator functions: which programs go where, under which cookie, attached and detached by group.

Scope: any number of processes and files; how a program is attached is the way's affair (``uprobes.py``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.failures import attach_error
from nativeleak.engines.bpf.kernel.groups import Close, Group, ProbeGroups, close_together
from nativeleak.engines.bpf.kernel.uprobes import Place, ProgramSource, Step, UprobeWay
from nativeleak.probes.exits import Exit
from nativeleak.probes.placement import PlacedProbe
from nativeleak.probes.returns import Plan

FREE: Final = Step("on_free")
EXIT: Final = Step("on_alloc_exit")
EXITS_ENTRY: Final = Step("on_exits_entry")


class FunctionProbes:
    """Probes of one trace.

    Args:
        way: How they are attached.
        loaded: The programs.
    """

    def __init__(self, way: UprobeWay, loaded: ProgramSource) -> None:
        self._way, self._loaded = way, loaded
        self._n_functions: dict[int, int] = {}
        self.groups = ProbeGroups()

    def attach(self, slot: int, pid: int, path: str, name: str, plan: Plan) -> None:
        """Probe functions of one mapped object in one process.

        Args:
            path: Where the object's file can be opened, by this process.
            name: What to call it in an error.
            plan: Which functions, where in them, and how their ends are seen.

        Raises:
            CannotTraceError: The kernel refuses; the error says what may be the matter. None of them is attached then.
        """
        numbers = self._number_functions(slot, plan.placed)
        jobs = [
            (step, group, [Place(p.offset, _cookie(slot, p, numbers.get(p.offset, 0))) for p in probes])
            for step, group, probes in self._jobs(plan.placed)
        ]
        # Frees stay first.
        jobs[1:1] = _exit_jobs(slot, plan)
        self.add(jobs, (slot, path), pid, path, name)

    def add(
        self, jobs: Sequence[tuple[Step, Group, list[Place]]], owner: Hashable, pid: int, path: str, name: str
    ) -> None:
        """Take probes in, all or none; those of a group that is wanted are attached.

        Args:
            jobs: Program, group, and places in the file.
            owner: Probes of one owner can be attached anew.
            path: Where the file can be opened, by this process.
            name: What to call it in an error.

        Raises:
            CannotTraceError: The kernel refuses.
        """
        n_before = len(self.groups)
        for step, _, places in jobs:
            if places:
                # What is loaded late is loaded in this process, not in the child that attaches.
                self._loaded.program_fd(step.program)
        try:
            for step, group, places in jobs:
                if places:
                    attach = functools.partial(self._way.attach, self._loaded, step, pid, path, places)
                    make_link = getattr(self._way, "link", None)
                    link = functools.partial(make_link, self._loaded, step, pid, path, places) if make_link else None
                    self.groups.add(group, attach, owner=owner, link=link, name=name)
        except OSError as error:
            close_together(self.groups.drop(n_before))
            raise attach_error(name, error) from error

    def _jobs(self, placed: Sequence[PlacedProbe]) -> Iterator[tuple[Step, Group, list[PlacedProbe]]]:
        """What to attach, frees first: no block is recorded whose free goes unseen."""
        yield FREE, Group.FREES, [probe for probe in placed if group_of(probe) is Group.FREES]
        for group in (Group.REALLOCS, Group.ALLOCATIONS):
            of_group = [probe for probe in placed if group_of(probe) is group]
            for step in self._way.allocation_steps:
                yield step, group, of_group

    def _number_functions(self, slot: int, placed: Sequence[PlacedProbe]) -> dict[int, int]:
        """Offset of a probe -> number of its function among those of the target whose return may be declined.

        Where the way cannot decline, the return is trapped all the same, and the walk of a stack has to know it.
        """
        numbers: dict[int, int] = {}
        if self._way.declines_returns:
            ranked = [(rank, probe) for probe in placed if (rank := probe.point.spec.may_decline) is not None]
            for _, probe in sorted(ranked, key=lambda each: each[0]):
                number = self._n_functions.get(slot, 0) + 1
                if number < abi.N_FUNCTIONS and probe.offset not in numbers:
                    numbers[probe.offset] = self._n_functions[slot] = number
        return numbers

    @contextlib.contextmanager
    def attached_to_ourselves(self, path: str, offsets: Sequence[int]) -> Iterator[None]:
        """Probes in code of our own that do next to nothing, to measure what the kernel takes for a hit.

        Raises:
            OSError: As the kernel says.
        """
        places = [Place(offset, 0) for offset in offsets]
        closes = self._way.attach(self._loaded, FREE, os.getpid(), path, places)
        try:
            yield
        finally:
            close_later(closes)

    @contextlib.contextmanager
    def attached_for_now(self) -> Iterator[None]:
        """What is attached inside is detached at the end."""
        n_before = len(self.groups)
        try:
            yield
        finally:
            # Each close waits for the kernel, some 50 ms, and nobody has to wait with it.
            close_later(self.groups.drop(n_before))

    def detach(self) -> None:
        """Take all of them away: when this returns no allocator program runs any more."""
        close_together(self.groups.drop())


def group_of(probe: PlacedProbe) -> Group:
    """The group of a probe by its kind of call."""
    if probe.point.spec.frees:
        return Group.FREES
    return Group.REALLOCS if probe.point.spec.reallocates else Group.ALLOCATIONS


def close_later(closes: Sequence[Close]) -> None:
    """Detach in the background; the process does not end before that is done."""
    threading.Thread(target=_close_all, args=(tuple(closes),), name="nativeleak-detach").start()


def _close_all(closes: Sequence[Close]) -> None:
    for close in closes:
        close()


def _exit_jobs(slot: int, plan: Plan) -> Iterator[tuple[Step, Group, list[Place]]]:
    """What to attach to functions that are seen at their exits; an exit that several have is probed once.

    Those of realloc come first, since they stay where others are taken away. Exits come before entries: an entry
    without its exits would be a call that never ends.
    """
    taken: set[Place] = set()
    for group in (Group.REALLOCS, Group.ALLOCATIONS):
        chosen = [each for each in plan.at_exits if each.probe.point.spec.reallocates == (group is Group.REALLOCS)]
        exits = {place for each in chosen for place in each.exits}
        places = {Place(place.offset, _exit_cookie(slot, place.exit)) for place in exits} - taken
        taken |= places
        yield EXIT, group, sorted(places)
        entries = [Place(each.probe.offset, _cookie(slot, each.probe, int(each.is_open))) for each in chosen]
        yield EXITS_ENTRY, group, entries


def _exit_cookie(slot: int, at: Exit) -> int:
    return abi.exit_cookie(slot, at.depth_bytes, at.register, at.condition)


def _cookie(slot: int, probe: PlacedProbe, function: int) -> int:
    at = probe.placement
    return abi.cookie(probe.point.kind, slot, at.offset, at.pushed_bytes, at.arguments, function)
