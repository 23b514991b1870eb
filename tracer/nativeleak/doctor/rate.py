"""Counts a process's allocator calls for a second, and says how a trace would watch them and what that would cost.

Scope: the default budget. Where probes would take more than a fifth of the time of the process's busy threads it is
counted for a tenth of a second only. Return probes are never hit: the programs decline returns while they count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

from nativeleak.doctor.checks import Check, State
from nativeleak.doctor.trial import allocator_objects
from nativeleak.engines.bpf.budget.calibration import Calibration, calibrate
from nativeleak.engines.bpf.budget.governor import DEFAULT_MAX_BLIP_S, EXACT, Governor
from nativeleak.engines.bpf.budget.load import Load
from nativeleak.engines.bpf.budget.meter import load_of
from nativeleak.engines.bpf.debuggers import debugged
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.limits import Limits
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.errors import CannotTraceError
from nativeleak.probes.emulation import CONSERVATIVE, measure_emulated
from nativeleak.probes.placement import place
from nativeleak.probes.returns import Plan, Returns, plan_returns
from nativeleak.process import hazards, procfs

NAME: Final = "allocation rate"
_DEFAULT_PCT: Final = 5.0
_COUNTED_S: Final = 1.0
_SLICE_S: Final = 0.03
_SLOT: Final = 0
_FILLED: Final = 0.9
_WINDOW_S: Final = 0.05
_LIMITS: Final = Limits(
    n_allocations=4096, n_sites=256, n_threads=64, n_stacks=512, n_new_stacks=256, ring_bytes=1 << 18
)


def rate_checks(pid: int) -> Iterator[Check]:
    """One check; none where probes must not or cannot be put into the process.

    Raises:
        NativeleakError: The process is gone, or the kernel refuses the probes.
        OSError: As the kernel says.
    """
    if hazards.find_hazard(pid) is not None or hazards.has_filter(pid) or debugged([pid]):
        return
    with Programs(_LIMITS, lambda _: None) as engine:
        try:
            emulated = measure_emulated(engine.attached_to_ourselves)
        except OSError:
            emulated = CONSERVATIVE

        def plans(of: int) -> Iterator[tuple[str, str, Plan]]:
            for mapped, points in allocator_objects(of):
                path = mapped.file_path
                placed = place(path, points, emulated, moved_arguments=True)
                yield path, mapped.path, plan_returns(path, placed, Returns.AUTO, emulated)

        calibration = _calibrate(engine, list(plans(os.getpid())))
        chosen = list(plans(pid))
        if calibration is None or not chosen:
            return
        engine.add_target(_SLOT, pid, abi.Target(max_depth=abi.MAX_FRAMES, unwind=abi.Unwind.FP))
        governor = Governor(_DEFAULT_PCT, calibration.costs)
        engine.count_only(_SLOT)
        for path, name, plan in chosen:
            engine.attach_functions(_SLOT, pid, path, name, plan)
        load = _count(engine, pid, governor)
        engine.close_window(_SLOT)
    yield Check(NAME, State.OK, describe(load, governor))


def _calibrate(engine: Programs, own: list[tuple[str, str, Plan]]) -> Calibration | None:
    for path, _, plan in own:
        pair = plan.only(("malloc", "free"))
        if pair.functions:
            try:
                return calibrate(engine, pair, path)
            except (CannotTraceError, OSError):
                continue
    return None


def _count(engine: Programs, pid: int, governor: Governor) -> Load:
    """The load of a second, or of less where that is a blip."""
    before, cpu_s, started_s = engine.read_counters(), procfs.read_cpu_s(pid), time.monotonic()
    while True:
        time.sleep(_SLICE_S)
        now, passed_s = engine.read_counters(), time.monotonic() - started_s
        counts = {counter: now[counter] - before[counter] for counter in now}
        load = load_of(counts, passed_s, (procfs.read_cpu_s(pid) - cpu_s) / passed_s)
        is_blip = governor.is_blip(governor.expected(EXACT, load), load.busy)
        if passed_s >= _COUNTED_S or (is_blip and passed_s >= DEFAULT_MAX_BLIP_S - _SLICE_S):
            return load


def describe(load: Load, governor: Governor) -> str:
    """How a trace with the default budget would watch this load, what it would see and cost.

    Args:
        load: Entries of allocating and freeing functions a second, and CPU time.
        governor: Knows what they cost.
    """
    cost = governor.expected(EXACT, load)
    governor.purse.lend(load.cpu, load.reach)
    allowed = governor.purse.income
    what = f"{load.calls:,.0f} allocations and {load.frees:,.0f} frees a second"
    price = f"{100 * cost:.2g} % of a core"
    if cost <= _FILLED * allowed:
        return f"{what}: trace would watch every one of them, for {price} ({100 * allowed:.2g} % are allowed)"
    share = min(1.0, allowed / cost)
    windows = f"windows of {1000 * _WINDOW_S:.0f} ms, " if governor.is_blip(cost, load.busy) else "windows, "
    return (
        f"{what}: trace would watch them in {windows}about {100 * share:.2g} % of the time, for {100 * allowed:.2g} %"
        f" of a core; recording all takes {price}: --max-overhead off --duration 5s"
    )
