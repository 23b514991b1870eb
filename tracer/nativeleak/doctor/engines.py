"""Which engine ``trace`` would take, and why none before it.

Scope: for engines that run BPF programs a conclusion from the other checks, for all the obstacle that the registry
knows; nothing is attached.
"""

from __future__ import annotations

from collections.abc import Sequence

from nativeleak.doctor.checks import ENGINE, HAZARDS, Check, State
from nativeleak.engines.registry import ENGINES, EngineSpec
from nativeleak.errors import NativeleakError


def engine_check(checks: Sequence[Check], pid: int | None) -> Check:
    """The engine that ``--engine auto`` takes.

    Args:
        checks: All others, of the machine and, with ``pid``, of the process.
        pid: The process; None where the question is only what the machine can do.
    """
    failed = [check.name for check in checks if check.state is State.FAIL]
    hazard = next((check for check in checks if check.name == HAZARDS and check.state is State.FAIL), None)
    if hazard is not None:
        return Check(ENGINE, State.FAIL, "auto refuses the process: see hazards", hazard.remedy)
    refusals: list[str] = []
    for spec in ENGINES:
        why = _obstacle(spec, failed, pid)
        if not why:
            return _taken(spec, refusals, pid)
        refusals.append(f"{spec.name} ({why})")
    return Check(ENGINE, State.FAIL, f"none can trace it: {'; '.join(refusals)}", "run as root")


def _taken(spec: EngineSpec, refusals: Sequence[str], pid: int | None) -> Check:
    name = ENGINE if pid is not None else "engines"
    if not refusals:
        return Check(name, State.OK, f"auto takes {spec.name}")
    whom = "" if pid is not None else ", for processes that it may read"
    lost = spec.coverage.not_available
    detail = f"auto takes {spec.name}{whom}: not {', not '.join(refusals)}; not available: {lost}"
    return Check(name, State.WARN, detail)


def _obstacle(spec: EngineSpec, failed: Sequence[str], pid: int | None) -> str:
    failures = [name for name in failed if spec.runs_bpf and name not in spec.unaffected_by]
    try:
        return ", ".join(failures) or spec.obstacle(() if pid is None else (pid,))
    except NativeleakError as error:
        return error.what.rpartition(" failed: ")[2]
