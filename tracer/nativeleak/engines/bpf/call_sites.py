"""Call sites that are rare enough to be watched all the time, where the budget pays for windows only.

A child looks for the call sites of the allocator in the objects of the targets (``probes/call_sites.py``). The windows
so far tell which of them are hot; the others are probed as far as a part of the budget pays, the rarest first. What
they cost is looked at again and again; when it is too much the dearest ones go.

Blocks that they record have a leaf of their own (``FrameSource.SITE``): their births were seen all the time, and not
only in windows. Their frees are seen like all others: in windows, or by walks of the heap.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from nativeleak import arch, children
from nativeleak.engines.bpf.allocators import AllocatorProbes
from nativeleak.engines.bpf.budget.calibration import Calibration
from nativeleak.engines.bpf.budget.controller import BudgetController
from nativeleak.engines.bpf.budget.load import Costs
from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.call_sites import CallSiteProbes
from nativeleak.engines.bpf.kernel.groups import Group
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.engines.options import Budget
from nativeleak.errors import NativeleakError
from nativeleak.probes.call_sites import CallSite
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.emulation import InstructionClass
from nativeleak.process import procfs
from nativeleak.process.hazards import is_patched, read_code
from nativeleak.process.mapped import MappedObject, executable_objects, open_object
from nativeleak.symbols.demangle import demangle

_FIRST_S: Final = 2.0
"""Of the trace: windows tell by then which call sites are hot."""
_AGAIN_S: Final = 15.0
"""Objects that are new are looked for so often, and rates that have fallen."""
_LOOK_S: Final = 0.5
"""Between two looks at what they cost."""
_SHARE: Final = 0.5
"""Of what the budget pays for, at most, that goes to call sites."""
_FILLED: Final = 0.8
"""Part of that share for which call sites are chosen: rates change."""
_NEWEST: Final = 0.3
"""Weight of the newest look in the rate of a call site."""
_LEAST_S: Final = 1e-3
_MAX_ANSWER_BYTES: Final = 16 << 20
_INSTRUCTION_BYTES: Final = 16
"""No instruction is longer."""


@dataclass(slots=True)
class _Object:
    """An object of a target, and its call sites once they are known.

    Attributes:
        fd: Its file, open.
        sites: Address of the call, in the process -> call site.
    """

    state: TargetState
    mapped: MappedObject
    fd: int
    sites: dict[int, CallSite] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where this process can open its file, whatever becomes of its name."""
        return f"/proc/self/fd/{self.fd}"


@dataclass(frozen=True, slots=True)
class _Watched:
    """A call site that is probed: its object, and the address of the call."""

    home: _Object
    address: int

    @property
    def place(self) -> tuple[int, int]:
        """What tells it from all others: slot and address."""
        return self.home.state.slot, self.address


class _Search:
    """A child that looks for the call sites of new objects.

    Args:
        emulated: What this kernel emulates.
    """

    def __init__(self, emulated: AbstractSet[InstructionClass]) -> None:
        self._emulated = emulated
        self._seen: set[tuple[int, tuple[str, int]]] = set()
        self._objects: list[_Object] = []
        self._child: children.Process[bytes] | None = None
        self._answers = -1

    def start(self, states: Iterable[TargetState]) -> None:
        """Look at the objects that were not seen before, unless a child still does."""
        if self._child is not None:
            return
        for state in states:
            try:
                objects = executable_objects(state.facts.pid, procfs.read_maps(state.facts.pid, executable_only=True))
            except NativeleakError:
                continue
            for mapped in objects:
                if not mapped.is_vdso and (state.slot, mapped.key) not in self._seen:
                    self._seen.add((state.slot, mapped.key))
                    with contextlib.suppress(OSError):
                        self._objects.append(_Object(state, mapped, open_object(state.facts.pid, mapped)))
        if self._objects:
            self._start_child()

    def _start_child(self) -> None:
        paths = [f"/proc/{os.getpid()}/fd/{each.fd}" for each in self._objects]
        self._answers = os.memfd_create("nativeleak-call-sites", os.MFD_CLOEXEC)
        command = children.python_module("nativeleak.probes.call_sites", ",".join(sorted(self._emulated)), *paths)
        try:
            self._child = children.start(
                command, stdin=subprocess.DEVNULL, stdout=self._answers, stderr=subprocess.DEVNULL
            )
        except OSError:
            self.close()

    def take(self) -> list[_Object]:
        """The objects whose call sites have been found since this was asked last."""
        if self._child is None or (status := self._child.poll()) is None:
            return []
        objects, self._objects, self._child = self._objects, [], None
        lines = os.pread(self._answers, _MAX_ANSWER_BYTES, 0).splitlines() if status == 0 else []
        os.close(self._answers)
        self._answers = -1
        for found, line in zip(objects, lines, strict=False):
            found.sites = _in_memory(found, json.loads(line))
        for each in objects:
            if not each.sites:
                os.close(each.fd)
        return [each for each in objects if each.sites]

    def close(self) -> None:
        """End the child, and close the files of what it looks at."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        while self._objects:
            os.close(self._objects.pop().fd)


class CallSites:
    """The call sites of one trace.

    Args:
        probes: What is attached.
        collector: Of the trace.
        controller: Keeps the trace inside its budget.
        emulated: What this kernel emulates.
        costs: Of probes here; ``call_ns`` is that of a trap.
        stepped_ns: What single-stepping adds.
        on_note: Gets (word, sentence) for the recording.
    """

    def __init__(
        self,
        probes: CallSiteProbes,
        collector: Collector,
        controller: BudgetController,
        emulated: AbstractSet[InstructionClass],
        costs: Costs,
        stepped_ns: float,
        on_note: Callable[[str, str], None],
    ) -> None:
        self._probes, self._collector, self._controller = probes, collector, controller
        self._costs, self._stepped_ns, self._on_note = costs, stepped_ns, on_note
        self._search = _Search(emulated)
        self._objects: list[_Object] = []
        self._watched: dict[int, _Watched] = {}
        self._rates: dict[tuple[int, int], float] = {}
        self._hits: Sequence[int] = ()
        self._search_s = _FIRST_S
        self._choose_s = math.inf
        self._looked_s = 0.0
        self._has_told = False
        collector.audits.alone = self._away
        collector.namer.callers = {}

    # Along the way

    def work(self, now_s: float, states: Sequence[TargetState]) -> None:
        """Between windows: look for call sites, probe them, take away what costs too much.

        Args:
            now_s: Seconds since the trace began.
            states: All targets.
        """
        if not self._controller.is_between:
            return
        limit = _SHARE * self._controller.income
        if now_s >= self._search_s:
            self._search_s = now_s + _AGAIN_S
            self._choose_s = now_s + _AGAIN_S / 2
            self._search.start(state for state in states if not state.is_over)
        if found := self._search.take():
            self._objects += found
            self._choose_s = now_s
        if now_s - self._looked_s >= _LOOK_S and self._look(now_s) > limit:
            self._choose_s = now_s
        if now_s >= self._choose_s:
            self._choose_s = math.inf
            self._choose(_FILLED * limit)

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """While nobody else may write to the live set: no call site is probed inside."""
        groups = self._collector.engine.groups
        wanted = groups.wanted
        if not self._watched or Group.SITES not in wanted:
            yield
            return
        self._controller.watch_sites(False)
        groups.want(wanted - {Group.SITES})
        try:
            yield
        finally:
            groups.want(wanted)
            self._controller.watch_sites(True)

    def stop(self) -> None:
        """Record nothing at call sites any more."""
        self._probe([])
        self.close()

    def close(self) -> None:
        """End what still looks, and close the files."""
        self._search.close()
        while self._objects:
            os.close(self._objects.pop().fd)

    # Choosing

    def _choose(self, limit: float) -> None:
        """Probe those that the limit pays for, the rarest first; nothing changes where these are probed already."""
        seconds = max(self._controller.watched_s(), _LEAST_S)
        calls = _calls_by_caller(self._collector)
        candidates: list[tuple[float, _Watched]] = []
        for home in self._objects:
            for address, site in home.sites.items() if not home.state.is_over else ():
                each = _Watched(home, address)
                rate = self._rates.get(each.place)
                if rate is None:
                    rate = calls.get((home.state.slot, address + site.n_bytes), 0) / seconds
                candidates.append((rate * self._hit_s(site), each))
        candidates.sort(key=lambda each: each[0])
        chosen: list[_Watched] = []
        for cost, each in candidates[: abi.MAX_CALL_SITES]:
            limit -= cost
            if limit < 0:
                break
            chosen.append(each)
        if {each.place for each in chosen} != {each.place for each in self._watched.values()}:
            self._probe(chosen)
            text = f"{len(self._watched):,} of {len(candidates):,} call sites are watched all the time"
            self._on_note("call sites" if self._has_told else "level", f"from here on {text}, the others in windows")
            self._has_told = True

    def _look(self, now_s: float) -> float:
        """Take in how often call sites were reached; returns what that costs, CPU seconds a second."""
        passed_s, self._looked_s = max(now_s - self._looked_s, _LEAST_S), now_s
        cost = stepped_s = 0.0
        hits, before_all = self._probes.read_hits(), self._hits
        self._hits = hits
        for number, watched in self._watched.items():
            n = hits[number] - before_all[number]
            if not n and watched.place not in self._rates:
                continue  # Most call sites are never reached.
            site = watched.home.sites[watched.address]
            before = self._rates.get(watched.place, n / passed_s)
            rate = self._rates[watched.place] = before + _NEWEST * (n / passed_s - before)
            stepped_s += n * site.n_stepped * self._stepped_ns / 1e9
            cost += rate * self._hit_s(site)
        self._controller.spend(stepped_s)
        return cost

    def _hit_s(self, site: CallSite) -> float:
        """What a call costs: two traps, and two runs of our programs."""
        costs = self._costs
        return (2 * (costs.call_ns + costs.run_ns) + site.n_stepped * self._stepped_ns) / 1e9

    # Probing

    def _probe(self, chosen: Sequence[_Watched]) -> None:
        """Probe these, and no others."""
        if self._watched:
            self._controller.watch_sites(False)
            self._probes.detach()
        self._watched = {}
        for home in self._objects:
            numbers = range(len(self._watched), abi.MAX_CALL_SITES)
            own = [each for each in chosen if each.home is home and _is_as_in_file(each)]
            numbered = dict(zip(numbers, own, strict=False))
            sites = {number: home.sites[each.address] for number, each in numbered.items()}
            if not sites:
                continue
            state = home.state
            for each in numbered.values():
                site = home.sites[each.address]
                state.leaf_names[each.address] = demangle(site.callee)
                state.returns.originals[each.address] = os.pread(home.fd, 1, site.offset)[0]
            try:
                self._probes.attach(state.slot, state.facts.pid, home.path, home.mapped.path, sites)
            except (NativeleakError, OSError):
                continue  # It was unmapped, or has ended: windows see its calls.
            self._watched |= numbered
        self._hits = self._probes.read_hits()
        if self._watched:
            self._controller.watch_sites(True)


def _is_as_in_file(watched: _Watched) -> bool:
    """Whether the code of a call, and what is behind it, is that of the file."""
    home = watched.home
    site = home.sites[watched.address]
    n_bytes = site.landing - site.offset + _INSTRUCTION_BYTES
    code = read_code(home.state.facts.pid, watched.address, n_bytes)
    return bool(code) and not is_patched(code, os.pread(home.fd, n_bytes, site.offset))


def _in_memory(home: _Object, rows: Sequence[Sequence[object]]) -> dict[int, CallSite]:
    """Address of each call -> call site; those that are not mapped are left out."""
    sites: dict[int, CallSite] = {}
    for row in rows:
        site = CallSite(*row)  # type: ignore[arg-type]
        site = site._replace(kind=AllocCall(site.kind))
        for start, end, offset in home.mapped.ranges:
            if offset <= site.offset < offset + end - start:
                sites[start + site.offset - offset] = site
    return sites


def _calls_by_caller(collector: Collector) -> dict[tuple[int, int], int]:
    """(slot, return address) -> blocks that were recorded with it near the leaf of their stack."""
    collector.read_heap()
    callers = collector.namer.callers or {}
    calls: dict[tuple[int, int], int] = {}
    for key, n in collector.heap.calls():
        for address in callers.get(key.stack_key, ()):
            calls[key.slot, address] = calls.get((key.slot, address), 0) + n
    return calls


def make_call_sites(
    collector: Collector,
    controller: BudgetController,
    budget: Budget,
    allocators: AllocatorProbes,
    calibration: Calibration | None,
    on_note: Callable[[str, str], None],
) -> CallSites | None:
    """What watches the call sites of a trace; None where windows never recur, or no links can be had."""
    probes = collector.engine.call_sites
    is_sampled = budget.sample_bytes or budget.chooses_distance
    if probes is None or calibration is None or not budget.max_overhead_pct or is_sampled or not arch.here().decodes:
        return None
    costs = allocators.costs(calibration)
    return CallSites(probes, collector, controller, allocators.emulated, costs, calibration.stepped_ns, on_note)
