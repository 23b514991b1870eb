"""Probes in allocator functions: finds allocators among the mapped objects, places probes in them, attaches these."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from nativeleak.engines.bpf.budget.calibration import Calibration, calibrate
from nativeleak.engines.bpf.budget.governor import Costs
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.errors import CannotTraceError, NoTargetError
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.emulation import CONSERVATIVE, measure_emulated
from nativeleak.probes.families import ALL_NAMES, choose_points
from nativeleak.probes.placement import place
from nativeleak.probes.returns import Plan, Returns, plan_returns
from nativeleak.process import procfs
from nativeleak.process.mapped import MappedObject, executable_objects
from nativeleak.symbols.demangle import demangle
from nativeleak.symbols.functions import find_function_offsets
from nativeleak.symbols.source import ElfError


class AllocatorProbes:
    """The probes of one trace in allocator functions.

    Args:
        programs: What is attached.
        before_probing: Called with the slot and the key of an object before its probes are attached.
        on_note: Gets (word, sentence) for the recording.
        returns: How the ends of calls are seen.
    """

    def __init__(
        self,
        programs: Programs,
        before_probing: Callable[[int, tuple[str, int]], None],
        on_note: Callable[[str, str], None],
        returns: Returns = Returns.AUTO,
    ) -> None:
        self._programs, self._before_probing, self._on_note = programs, before_probing, on_note
        self._returns = returns
        self._probed: set[tuple[int, tuple[str, int]]] = set()
        self._slow_kinds: set[AllocCall] = set()
        try:
            self._emulated = measure_emulated(programs.attached_to_ourselves)
        except OSError:
            self._emulated = CONSERVATIVE

    def probe_new_objects(self, state: TargetState) -> None:
        """Probe every mapped object that defines allocator functions and is not probed yet."""
        try:
            maps = procfs.read_maps(state.facts.pid, executable_only=True)
        except NoTargetError:
            return
        for mapped in executable_objects(state.facts.pid, maps):
            if mapped.is_vdso or (state.slot, mapped.key) in self._probed:
                continue
            self._probed.add((state.slot, mapped.key))
            self._probe_object(state, mapped)

    def _probe_object(self, state: TargetState, mapped: MappedObject) -> None:
        try:
            plan = self._plan(mapped.file_path, self._returns) if mapped.file_path else Plan()
        except (ElfError, OSError):
            return
        for function, reason in plan.unseen:
            self._on_note("unseen", f"{demangle(function)} of {mapped.path} is not seen: {reason}")
        placed = plan.functions
        if not placed:
            return
        self._before_probing(state.slot, mapped.key)
        self._programs.attach_functions(state.slot, state.facts.pid, mapped.file_path, mapped.path, plan)
        for start, end, offset in mapped.ranges:
            state.leaf_names |= {
                start + probe.point.offset - offset: probe.point.function
                for probe in placed
                if offset <= probe.point.offset < offset + end - start
            }
        state.info = replace(state.info, allocators=(*state.info.allocators, mapped.name))
        slow = [probe.point.function for probe in placed if not probe.placement.emulated]
        slow += [
            each.probe.point.function for each in plan.at_exits if any(place.exit.is_costly for place in each.exits)
        ]
        self._slow_kinds |= {probe.point.kind for probe in placed if not probe.placement.emulated}
        costs = f"; a second trap at each call of {', '.join(dict.fromkeys(slow))}" if slow else ""
        self._on_note("probes", f"probed {len(placed)} allocator functions of {mapped.path}{costs}")

    def _plan(self, path: str, returns: Returns) -> Plan:
        points = choose_points(find_function_offsets(path, ALL_NAMES))
        if not points:
            return Plan()
        cache = PlacementCache()
        placed = place(path, points, self._emulated, moved_arguments=True, cache=cache)
        return plan_returns(path, placed, returns, self._emulated, cache)

    def calibrate(self) -> Calibration | None:
        """What probes cost here; None where it cannot be measured, and then nothing is kept inside a budget."""
        for mapped in executable_objects(os.getpid(), procfs.read_maps(os.getpid())):
            try:
                plan = self._plan(mapped.file_path, self._returns) if mapped.file_path else Plan()
                pair = plan.only(("malloc", "free"))
                if pair.functions:
                    return calibrate(self._programs, pair, mapped.file_path)
            except (ElfError, OSError, CannotTraceError):
                continue
        return None

    def costs(self, calibration: Calibration) -> Costs:
        """What hits cost in these targets."""
        return calibration.of(
            calls_stepped=AllocCall.MALLOC in self._slow_kinds, frees_stepped=AllocCall.FREE in self._slow_kinds
        )
