"""All checks in order: the machine, the trial, and the process if one is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nativeleak.doctor.checks import ENGINE, Check, State, run_checks
from nativeleak.doctor.engines import engine_check
from nativeleak.doctor.machine import machine_functions
from nativeleak.doctor.rate import NAME, rate_checks
from nativeleak.doctor.target import target_functions
from nativeleak.doctor.trial import trial_checks, try_modes
from nativeleak.errors import CannotTraceError, NativeleakError
from nativeleak.process.check import check_target


@dataclass(frozen=True, slots=True)
class Findings:
    """Results of all checks.

    Attributes:
        checks: In the order of the report.
        refusal: Why the process cannot be examined; the caller raises it after printing the checks.
    """

    checks: list[Check]
    refusal: NativeleakError | None = None


def examine(pid: int | None) -> Findings:
    """Check this machine, and a process if ``pid`` is given. Nothing stays attached.

    Takes about five seconds, most of them while the kernel removes probes.
    """
    checks = run_checks([*machine_functions(), ("BPF programs", _try)])
    if pid is None:
        return Findings([*checks, *run_checks([("engines", lambda: [engine_check(checks, None)])])])
    try:
        facts = check_target(pid)
    except NativeleakError as error:
        checks.append(Check("target", State.FAIL, error.what, error.remedy))
        if isinstance(error, CannotTraceError):
            checks += run_checks([(ENGINE, lambda: [engine_check(checks, pid)])])
        return Findings(checks, None if isinstance(error, CannotTraceError) else error)
    except Exception as error:
        return Findings([*checks, Check("target", State.WARN, f"could not be checked: {error}")])
    checks += run_checks([*target_functions(facts), (NAME, lambda: rate_checks(facts.pid))])
    return Findings([*checks, *run_checks([(ENGINE, lambda: [engine_check(checks, pid)])])])


def _try() -> Iterator[Check]:
    yield from trial_checks(try_modes())
