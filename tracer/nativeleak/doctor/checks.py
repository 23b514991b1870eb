"""Result of one check, and the verdict of all checks on ``nativeleak trace``.

Scope: data and the verdict. A check that raises becomes a result too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ENGINE: Final = "engine"
"""Name of the check that says which engine would trace the given process."""

HAZARDS: Final = "hazards"
"""Name of the check that says why probes may end the given process: trace refuses it then."""


class State(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Outcome(StrEnum):
    """Whether ``trace`` works here; the values are those of the JSON form."""

    WORKS = "works"
    RESTRICTED = "restricted"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: Subject of the check, in a few words.
        state: ``FAIL`` if tracing cannot work, ``WARN`` if something will be missing or cost more.
        detail: The finding, in one line.
        remedy: What the user can do; empty where nothing can or need be done.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict of all checks, for programs and as a sentence."""

    outcome: Outcome
    text: str


CheckFunction = Callable[[], Iterable[Check]]


def run_checks(functions: Iterable[tuple[str, CheckFunction]]) -> list[Check]:
    """Results of all functions; a function that raises gives a warning under its name."""
    checks: list[Check] = []
    for name, function in functions:
        try:
            checks += function()
        except Exception as error:
            why = str(error) or type(error).__name__
            checks.append(Check(name, State.WARN, f"could not be checked: {why}"))
    return checks


def judge(checks: Sequence[Check]) -> Verdict:
    """Whether ``trace`` will work, and the checks that prevent it."""
    failed = [check.name for check in checks if check.state is State.FAIL]
    other = next((check.detail for check in checks if check.name == ENGINE and check.state is State.WARN), None)
    if failed and other is not None:
        taken = other.partition(":")[0]
        return Verdict(Outcome.RESTRICTED, f"trace will work, but without BPF ({', '.join(failed)}): {taken}")
    if failed:
        return Verdict(Outcome.IMPOSSIBLE, f"trace cannot work here: {', '.join(failed)}")
    restricting = [check.name for check in checks if check.state is State.WARN]
    if restricting:
        return Verdict(Outcome.RESTRICTED, f"trace will work with restrictions: {', '.join(restricting)}")
    return Verdict(Outcome.WORKS, "trace will work")
