"""Sites of one cause, before a finding is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nativeleak.analysis.curves import Ints
from nativeleak.analysis.paths import Step
from nativeleak.analysis.tree import Key


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Sites of one cause before they are counted; each is equal to itself alone, because arrays have no one equality.

    Attributes:
        fillers: Of a pool: the functions that made it take memory, most first; empty of all else.
    """

    positions: Ints
    depth_key: Key
    called_by: str | None
    step: Step | None
    fillers: tuple[str, ...] = ()


class LargestSite(NamedTuple):
    """The site of a part that holds most: what it is joined with others by."""

    path_id: int
    kind: str
    slot: int


def merged(parts: Iterable[Part]) -> list[Part]:
    """Parts of the same name in one: they differ only in frames that everything passes through."""
    alike: dict[tuple[int, int | None, str | None], Part] = {}
    for part in parts:
        key = (part.depth_key[0], part.step.function_id if part.step else None, part.called_by)
        if key in alike and part.step is not None:
            before = alike[key]
            part = replace(before, positions=np.concatenate((before.positions, part.positions)))
        alike[key] = part
    return list(alike.values())
