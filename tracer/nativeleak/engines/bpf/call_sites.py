"""Call sites that are rare enough to be watched all the time, where the budget pays for windows only.

Children look for the call sites of the allocator in each object of the targets (``probes/call_sites.py``). The windows
so far tell which of them are hot; the others are probed as far as a part of the budget pays, the rarest first. What
they cost is looked at again and again; when it is too much the dearest ones go.

Blocks that they record have a leaf of their own (``FrameSource.SITE``): their births were seen all the time, and not
only in windows. Their frees are seen like all others: in windows, or by walks of the heap.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import IO, Final, NamedTuple

from nativeleak import children
from nativeleak.engines.bpf.budget.load import Costs
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.groups import Group
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.bpf.targets import TargetState
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
"""Objects that are new are looked for so often."""
_SEARCH_S: Final = 60.0
"""A search that takes longer is given up."""
_SHARE: Final = 0.5
"""Of what the budget pays for, at most, that goes to call sites."""
_FILLED: Final = 0.8
"""Part of that share for which call sites are chosen: rates change."""
_NEWEST: Final = 0.3
"""Weight of the newest look in the rate of a call site."""
_LEAST_S: Final = 1e-3
_INSTRUCTION_BYTES: Final = 16
"""No instruction is longer."""
_CHECK_S: Final = 0.5
"""Between two looks at what they cost."""


class Rates(NamedTuple):
    """What windows have told of call sites.

    Attributes:
        seconds: How long calls were watched.
        calls: (slot, return address) -> calls that were seen to return there.
    """

    seconds: float
    calls: dict[tuple[int, int], int]


@dataclass(slots=True)
class _Object:
    """An object of a target, whose call sites are looked for, or known.

    Attributes:
        child: Looks for them; None when it has ended.
        answers: What it writes.
        sites: What it found, in this process: address of the call -> call site.
    """

    state: TargetState
    mapped: MappedObject
    fd: int
    child: children.Process[bytes] | None
    answers: IO[bytes]
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


class CallSites:
    """The call sites of one trace.

    Args:
        programs: What is attached.
        emulated: What this kernel emulates.
        costs: Of probes here; ``call_ns`` is that of a trap.
        stepped_ns: What single-stepping adds.
        on_change: Called whenever another set is probed from now on: with whether there is any.
        on_cost: Gets CPU seconds that single steps took, beside what is counted as calls and returns.

    Attributes:
        n_watched: Call sites that are probed now.
        n_found: Call sites that were found.
    """

    def __init__(
        self,
        programs: Programs,
        emulated: AbstractSet[InstructionClass],
        costs: Costs,
        stepped_ns: float,
        on_change: Callable[[bool], None],
        on_cost: Callable[[float], None],
    ) -> None:
        self._programs, self._emulated, self._costs = programs, emulated, costs
        self._stepped_ns, self._on_change, self._on_cost = stepped_ns, on_change, on_cost
        self._objects: list[_Object] = []
        self._seen: set[tuple[int, tuple[str, int]]] = set()
        self._watched: dict[int, _Watched] = {}
        self._rates: dict[tuple[int, int], float] = {}
        self._next_s = _FIRST_S
        self._is_new = False
        self._checked_s = 0.0

    @property
    def n_watched(self) -> int:
        """Call sites that are probed now."""
        return len(self._watched)

    @property
    def n_found(self) -> int:
        """Call sites that were found."""
        return sum(len(each.sites) for each in self._objects)

    # Along the way

    def work(self, now_s: float, income: float, states: Sequence[TargetState], rates: Callable[[], Rates]) -> None:
        """Look for call sites, probe them, take away what costs too much; to be called between windows.

        Args:
            now_s: Seconds since the trace began.
            income: CPU seconds a second that the budget pays for.
            states: The targets that live.
            rates: What the windows have told so far.
        """
        limit = _SHARE * income
        is_due = now_s >= self._next_s
        if is_due:
            self._next_s = now_s + _AGAIN_S
            self._search(states)
        self._take_answers()
        if any(each.child for each in self._objects):
            return
        if now_s - self._checked_s >= _CHECK_S:
            is_due |= self._look(now_s) > limit
        if self._is_new or is_due:
            self._is_new = False
            self._choose(_FILLED * limit, rates())

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """While nobody else may write to the live set: nothing is probed inside."""
        groups = self._programs.groups
        wanted = groups.wanted
        if not self._watched or Group.SITES not in wanted:
            yield
            return
        self._on_change(False)
        groups.want(wanted - {Group.SITES})
        try:
            yield
        finally:
            groups.want(wanted)
            self._on_change(True)

    def close(self) -> None:
        """End what still looks, and close the files."""
        for each in self._objects:
            if each.child is not None:
                each.child.kill()
                each.child.wait()
            each.answers.close()
            os.close(each.fd)
        self._objects.clear()

    # Looking for them

    def _search(self, states: Sequence[TargetState]) -> None:
        """Start a child for each object that is new."""
        for state in states:
            try:
                objects = executable_objects(state.facts.pid, procfs.read_maps(state.facts.pid, executable_only=True))
            except NativeleakError:
                continue
            for mapped in objects:
                if mapped.is_vdso or (state.slot, mapped.key) in self._seen:
                    continue
                self._seen.add((state.slot, mapped.key))
                with contextlib.suppress(OSError):
                    self._start(state, mapped)

    def _start(self, state: TargetState, mapped: MappedObject) -> None:
        fd = open_object(state.facts.pid, mapped)
        answers = tempfile.TemporaryFile()  # noqa: SIM115 - until the child has answered
        arguments = (f"/proc/{os.getpid()}/fd/{fd}", ",".join(sorted(self._emulated)))
        try:
            child = children.start(
                children.python_module("nativeleak.probes.call_sites", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=answers,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            os.close(fd)
            answers.close()
            raise
        self._objects.append(_Object(state, mapped, fd, child, answers))

    def _take_answers(self) -> None:
        for each in self._objects:
            if each.child is None or (status := each.child.poll()) is None:
                continue
            each.child = None
            self._is_new = True
            if status == 0:
                each.answers.seek(0)
                each.sites = _in_memory(each, json.loads(each.answers.read()))

    # Choosing

    def _choose(self, limit: float, rates: Rates) -> None:
        """Probe those that the limit pays for, the rarest first; nothing changes where these are probed already."""
        candidates: list[tuple[float, _Watched]] = []
        for home in self._objects:
            for address, site in home.sites.items() if not home.state.is_over else ():
                cost = self._rate(home, address, site, rates) * self._hit_s(site)
                candidates.append((cost, _Watched(home, address)))
        candidates.sort(key=lambda each: each[0])
        chosen: list[_Watched] = []
        for cost, each in candidates[: abi.MAX_CALL_SITES]:
            limit -= cost
            if limit < 0:
                break
            chosen.append(each)
        if {each.place for each in chosen} != {each.place for each in self._watched.values()}:
            self._probe(chosen)

    def _rate(self, home: _Object, address: int, site: CallSite, rates: Rates) -> float:
        """Calls a second: counted where it was probed, else as windows tell."""
        slot = home.state.slot
        counted = self._rates.get((slot, address))
        if counted is not None:
            return counted
        return rates.calls.get((slot, address + site.n_bytes), 0) / max(rates.seconds, _LEAST_S)

    def _look(self, now_s: float) -> float:
        """Take in how often call sites were reached; returns what that cost, CPU seconds a second."""
        passed_s, self._checked_s = max(now_s - self._checked_s, _LEAST_S), now_s
        cost_s = stepped_s = 0.0
        for number, watched in self._watched.items():
            n, site = self._programs.take_site_hits(number), watched.home.sites[watched.address]
            before = self._rates.get(watched.place, n / passed_s)
            self._rates[watched.place] = before + _NEWEST * (n / passed_s - before)
            stepped_s += n * site.n_stepped * self._stepped_ns / 1e9
            cost_s += n * self._hit_s(site)
        self._on_cost(stepped_s)
        return cost_s / passed_s

    def _hit_s(self, site: CallSite) -> float:
        """What a call costs: two traps, and two runs of our programs."""
        costs = self._costs
        return (2 * (costs.call_ns + costs.run_ns) + site.n_stepped * self._stepped_ns) / 1e9

    # Probing

    def _probe(self, chosen: Sequence[_Watched]) -> None:
        """Probe these, and no others."""
        if self._watched:
            self._on_change(False)
            self._programs.groups.drop_group(Group.SITES)
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
                self._programs.attach_call_sites(state.slot, state.facts.pid, home.path, home.mapped.path, sites)
            except (NativeleakError, OSError):
                continue  # It was unmapped, or has ended: windows see its calls.
            self._watched |= numbered
            for number in numbered:
                self._programs.take_site_hits(number)
        if self._watched:
            self._on_change(True)


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
