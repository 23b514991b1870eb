"""Scores a report's suspects against the labels of a program: right, wrong, twice, missed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from corpus.labels import Program

SEPARATORS = ("::", ".", "$")


def is_named(name: str | None, label: str) -> bool:
    """Tell whether a display name is the function of a label, in whatever namespace, class or crate it stands."""
    return name is not None and (name == label or name.endswith(tuple(mark + label for mark in SEPARATORS)))


@dataclass(slots=True)
class Score:
    """What one report said.

    Attributes:
        found: Suspect of each leak that was named, by the leak's first label.
        missed: First labels of leaks that no suspect named.
        wrong: Suspects that name no leak.
        twice: Suspects that name a leak that another one has named: one leak is one row, so they count as wrong.
    """

    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    wrong: list[Mapping[str, Any]] = field(default_factory=list)
    twice: list[Mapping[str, Any]] = field(default_factory=list)


def score(suspects: Iterable[Mapping[str, Any]], program: Program) -> Score:
    """Compare suspects (of the JSON report, largest growth first) with the labels."""
    result = Score()
    for suspect in suspects:
        names = (suspect["name"], suspect.get("called_by"))
        leak = next(
            (leak for leak in program.leaks if any(is_named(name, label) for name in names for label in leak)), None
        )
        if leak is None:
            result.wrong.append(suspect)
        elif leak[0] in result.found:
            result.twice.append(suspect)
        else:
            result.found[leak[0]] = suspect
    result.missed = [leak[0] for leak in program.leaks if leak[0] not in result.found]
    return result


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion; 0 to 1 where ``n`` is 0. Source: Wilson, JASA 22 (1927), 209-212."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = right / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, middle - reach), min(1.0, middle + reach)
