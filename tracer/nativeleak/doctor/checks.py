"""One check's result, and what all results together mean for ``nativeleak trace``.

Scope: data and the verdict. A check that fails itself becomes a result too: a doctor must not fall ill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ENGINE: Final = "engine"
"""Name of the check that says which engine traces the process that was named."""


class State(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Outcome(StrEnum):
    """What ``trace`` can do here; the values are those of the JSON form."""

    WORKS = "works"
    RESTRICTED = "restricted"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What, in a few words.
        state: ``FAIL`` where tracing cannot work with it, ``WARN`` where something will be missing or cost more.
        detail: What it means, in one line.
        remedy: What to do; empty where there is nothing to do.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all checks together say, for machines and as a sentence."""

    outcome: Outcome
    text: str


CheckFunction = Callable[[], Iterable[Check]]


def run_checks(functions: Iterable[tuple[str, CheckFunction]]) -> list[Check]:
    """The results of all functions; one that raises gives a warning under the name given with it."""
    checks: list[Check] = []
    for name, function in functions:
        try:
            checks += function()
        except Exception as error:
            why = str(error) or type(error).__name__
            checks.append(Check(name, State.WARN, f"could not be checked: {why}"))
    return checks


def judge(checks: Sequence[Check]) -> Verdict:
    """Whether ``trace`` will work, and which checks stand in its way."""
    failed = [check.name for check in checks if check.state is State.FAIL]
    other = next((check.detail for check in checks if check.name == ENGINE and check.state is State.WARN), None)
    if failed and other is not None:
        taken = other.partition(":")[0]
        return Verdict(Outcome.RESTRICTED, f"trace will work, but not by BPF ({', '.join(failed)}): {taken}")
    if failed:
        return Verdict(Outcome.IMPOSSIBLE, f"trace cannot work here: {', '.join(failed)}")
    restricting = [check.name for check in checks if check.state is State.WARN]
    if restricting:
        return Verdict(Outcome.RESTRICTED, f"trace will work with restrictions: {', '.join(restricting)}")
    return Verdict(Outcome.WORKS, "trace will work")
