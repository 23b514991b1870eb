"""Probes in allocator functions: finds allocators among the mapped objects, places probes in them, attaches these."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from nativeleak.engines.bpf.budget.calibration import Calibration, calibrate
from nativeleak.engines.bpf.budget.load import Costs
from nativeleak.engines.bpf.filter_trial import survives_filter
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.engines.bpf.vanished import LOST, VanishedProbes
from nativeleak.errors import CannotTraceError, NoTargetError
from nativeleak.model import Unwatched
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.emulation import CONSERVATIVE, measure_emulated
from nativeleak.probes.families import Affix
from nativeleak.probes.placement import PlacedProbe, place
from nativeleak.probes.returns import HARM, Plan, Returns, describe_unproved, plan_returns
from nativeleak.probes.search import Allocators, find_allocators
from nativeleak.process import procfs
from nativeleak.process.hazards import is_patched, read_code
from nativeleak.process.mapped import MappedObject, executable_objects, open_object
from nativeleak.symbols.debugfiles import debug_openers, find_debug_file, read_debugdata
from nativeleak.symbols.demangle import demangle
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.source import ElfError

_T = TypeVar("_T")
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENXIO, errno.EIO})
"""Errors of an attach to what is no longer there."""
_INSTRUCTION_BYTES: Final = 16
"""No instruction is longer."""
_TRIES: Final = 3
"""Of an object that is mapped elsewhere each time it is looked at."""


class AllocatorProbes:
    """The probes of one trace in allocator functions.

    Each probed file stays open: probes can be attached to it again when the target has it mapped elsewhere, or nowhere.

    Args:
        programs: What is attached.
        vanished: Told what is probed where.
        elapsed_s: Seconds since the first window opened.
        before_probing: Called with the slot and the key of an object before its probes are attached.
        on_note: Gets (word, sentence) for the recording.
        returns: How the ends of calls are seen.
        asked: Families of functions that the user says are allocators.

    Attributes:
        emulated: Instructions that this kernel emulates.
    """

    def __init__(
        self,
        programs: Programs,
        vanished: VanishedProbes,
        elapsed_s: Callable[[], float],
        before_probing: Callable[[int, tuple[str, int]], None],
        on_note: Callable[[str, str], None],
        returns: Returns = Returns.AUTO,
        asked: Sequence[Affix] = (),
    ) -> None:
        self._programs, self._before_probing, self._on_note = programs, before_probing, on_note
        self._vanished, self._elapsed_s = vanished, elapsed_s
        self._returns, self._asked = returns, tuple(asked)
        self._found_asked: set[Affix] = set()
        self._probed: set[tuple[int, tuple[str, int]]] = set()
        self._slow_kinds: set[AllocCall] = set()
        self._unmapped: set[tuple[int, str]] = set()
        self._files: list[int] = []
        try:
            self.emulated = measure_emulated(programs.attached_to_ourselves)
        except OSError:
            self.emulated = CONSERVATIVE

    def probe_new_objects(self, state: TargetState) -> None:
        """Probe every mapped object that defines allocator functions and is not probed yet.

        Raises:
            CannotTraceError: The kernel refuses the probes of an object that is still mapped.
        """
        for _ in range(_TRIES):
            try:
                objects = executable_objects(state.facts.pid, procfs.read_maps(state.facts.pid, executable_only=True))
            except NoTargetError:
                return
            self._vanished.see(state.slot, objects)
            new = [each for each in objects if not each.is_vdso and (state.slot, each.key) not in self._probed]
            was_whole = True
            for mapped in new:
                self._probed.add((state.slot, mapped.key))
                if not self._probe_object(state, mapped):
                    self._probed.discard((state.slot, mapped.key))
                    was_whole = False
            if was_whole:
                return

    def _probe_object(self, state: TargetState, mapped: MappedObject) -> bool:
        """Probe one object; False where it was unmapped meanwhile."""
        try:
            fd = open_object(state.facts.pid, mapped)
        except OSError:
            return self._is_mapped(state, mapped)
        path = f"/proc/self/fd/{fd}"
        try:
            found = self._find(state.facts.pid, path, mapped)
            plan = self._plan(path, found, self._returns)
        except (ElfError, OSError):
            found, plan = Allocators(), Plan()
        for function, reason in plan.unseen:
            self._on_note("unseen", f"{demangle(function)} of {mapped.path} is not seen: {reason}")
        if plan.unproved:
            self._on_note("returns", f"{describe_unproved(plan.unproved, mapped.name)}: {HARM}")
        plan = self._leave_out_patched(state, mapped, fd, plan)
        self._take_unwatched(state, found.unwatched)
        placed = plan.functions
        if not placed:
            os.close(fd)
            return True
        self._files.append(fd)
        self._before_probing(state.slot, mapped.key)
        try:
            self._programs.attach_functions(state.slot, state.facts.pid, path, mapped.path, plan)
        except CannotTraceError as error:
            is_gone = isinstance(error.__cause__, OSError) and error.__cause__.errno in _GONE
            if is_gone and not self._is_mapped(state, mapped):
                return False
            raise
        self._take(state, mapped, plan)
        self._vanished.add(state.slot, state.facts.pid, mapped, path, fd, _all_places(plan), self._elapsed_s())
        return True

    def _leave_out_patched(self, state: TargetState, mapped: MappedObject, fd: int, plan: Plan) -> Plan:
        """The functions whose code is that of the file; notes the others."""
        patched = {p.point.function for p in plan.functions if _is_patched(state.facts.pid, mapped, fd, p)}
        if not patched:
            return plan
        text = f"the code of {', '.join(sorted(patched))} in {mapped.name} was changed in memory (a detour, Frida)"
        self._on_note(LOST, f"{text}: not probed, and calls of it are missing")
        return replace(
            plan,
            placed=tuple(probe for probe in plan.placed if probe.point.function not in patched),
            at_exits=tuple(each for each in plan.at_exits if each.probe.point.function not in patched),
        )

    def _is_mapped(self, state: TargetState, mapped: MappedObject) -> bool:
        """Whether an object is still where it was seen; notes once that it is not."""
        try:
            objects = executable_objects(state.facts.pid, procfs.read_maps(state.facts.pid, executable_only=True))
        except NoTargetError:
            return True  # the end of the target says more
        if any(each.key == mapped.key and each.ranges == mapped.ranges for each in objects):
            return True
        if (state.slot, mapped.path) not in self._unmapped:
            self._unmapped.add((state.slot, mapped.path))
            self._on_note("probes", f"{mapped.name} was unmapped before it could be probed")
        return False

    def _take(self, state: TargetState, mapped: MappedObject, plan: Plan) -> None:
        """Keep what others read of an object that is probed now."""
        placed = plan.functions
        for start, end, offset in mapped.ranges:
            state.leaf_names |= {
                start + probe.point.offset - offset: probe.point.function
                for probe in placed
                if offset <= probe.point.offset < offset + end - start
            }
        if mapped.name not in state.info.allocators:
            state.info = replace(state.info, allocators=(*state.info.allocators, mapped.name))
        slow = [probe.point.function for probe in placed if not probe.placement.emulated]
        slow += [
            each.probe.point.function for each in plan.at_exits if any(place.exit.is_costly for place in each.exits)
        ]
        self._slow_kinds |= {probe.point.kind for probe in placed if not probe.placement.emulated}
        costs = f"; a second trap at each call of {', '.join(dict.fromkeys(slow))}" if slow else ""
        self._on_note("probes", f"probed {len(placed)} allocator functions of {mapped.path}{costs}")

    def _find(self, pid: int, path: str, mapped: MappedObject) -> Allocators:
        def find_debug(elf: ElfFile) -> ElfFile | None:
            return find_debug_file(elf, mapped.path, debug_openers(pid)) or read_debugdata(elf)

        found = find_allocators(path, mapped.name, self._asked, find_debug)
        self._found_asked.update(found.affixes)
        return found

    def _plan(self, path: str, found: Allocators, returns: Returns) -> Plan:
        if not found.points:
            return Plan()
        cache = PlacementCache()
        placed = place(path, found.points, self.emulated, moved_arguments=True, cache=cache)
        return plan_returns(path, placed, returns, self.emulated, cache)

    def _take_unwatched(self, state: TargetState, unwatched: Sequence[Unwatched]) -> None:
        new = [each for each in unwatched if each not in state.info.unwatched]
        if new:
            state.info = replace(state.info, unwatched=(*state.info.unwatched, *new))
        for each in new:
            functions = f" ({each.prefix})" if each.prefix else ""
            self._on_note("unwatched", f"not watched: {each.allocator or 'allocator'}{functions} in {each.object}")

    def say_what_was_not_found(self) -> None:
        """Note the families that the user asked for and that no object has."""
        for affix in self._asked:
            if affix not in self._found_asked:
                names = f"{affix.name('malloc')} and {affix.name('free')}"
                self._on_note("allocator", f"--allocator {affix}: no mapped object defines functions such as {names}")

    def calibrate(self) -> Calibration | None:
        """What probes cost here; None where it cannot be measured, and then nothing is kept inside a budget."""
        return self._try_on_ourselves(calibrate)

    def survives_filter(self) -> bool:
        """Whether a process under a seccomp filter survives our probes on this kernel; False if it cannot be tried."""
        return bool(self._try_on_ourselves(survives_filter))

    def _try_on_ourselves(self, attempt: Callable[[Programs, Plan, str], _T]) -> _T | None:
        """Something with the probes of malloc and free in our own C library; None where it cannot be done."""
        for mapped in executable_objects(os.getpid(), procfs.read_maps(os.getpid())):
            try:
                path = mapped.file_path
                plan = self._plan(path, find_allocators(path), self._returns) if path else Plan()
                pair = plan.only(("malloc", "free"))
                if pair.functions:
                    return attempt(self._programs, pair, mapped.file_path)
            except (ElfError, OSError, CannotTraceError):
                continue
        return None

    def costs(self, calibration: Calibration) -> Costs:
        """What hits cost in these targets."""
        return calibration.of(
            calls_stepped=AllocCall.MALLOC in self._slow_kinds, frees_stepped=AllocCall.FREE in self._slow_kinds
        )

    def close(self) -> None:
        """Close the probed files."""
        while self._files:
            os.close(self._files.pop())


def _all_places(plan: Plan) -> list[PlacedProbe]:
    """A probe for each probed instruction: those of a plan's functions, and their exits."""
    found = {probe.offset: probe for probe in plan.functions}
    for each in plan.at_exits:
        at_start = replace(each.probe.placement, offset=0)
        for place_ in each.exits:
            found.setdefault(place_.offset, PlacedProbe(each.probe.point._replace(offset=place_.offset), at_start))
    return list(found.values())


def _is_patched(pid: int, mapped: MappedObject, fd: int, probe: PlacedProbe) -> bool:
    """Whether the code of a function, from its entry through its probed instruction, is not that of the file."""
    n_bytes = probe.placement.offset + _INSTRUCTION_BYTES
    for start, end, offset in mapped.ranges:
        if offset <= probe.point.offset < offset + end - start:
            code = read_code(pid, start + probe.point.offset - offset, n_bytes)
            return is_patched(code, os.pread(fd, n_bytes, probe.point.offset))
    return False
