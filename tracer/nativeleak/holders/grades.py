"""Lost blocks by grade, each grade by class, size and contents."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.arrays import parts
from nativeleak.heaps.memory import Flags, Words
from nativeleak.holders.classes import Classes
from nativeleak.holders.hints import HINT_WORDS, KnownSizes, hint
from nativeleak.holders.lost import HIDDEN, LEFT_OVER, LOST, Candidates
from nativeleak.holders.result import LIKELY, POSSIBLE, PROVEN, LostBlocks, LostGroup
from nativeleak.holders.scan import Scan, Scanner

_MAX_GROUPS: Final = 200
_MAX_HINTED: Final = 1 << 16


def graded(
    candidates: Candidates,
    is_hidden: Flags,
    last: Scan,
    classes: Classes,
    scanner: Scanner,
    doubts: Sequence[str],
    known_sizes: KnownSizes,
) -> list[LostBlocks]:
    """Lost blocks by grade, each grade by class, size and contents."""
    grades = np.where(is_hidden, HIDDEN, np.where(candidates.is_leftover, LEFT_OVER, LOST))
    found = []
    for grade in (LOST, LEFT_OVER, HIDDEN):
        index = np.flatnonzero(grades == grade)
        if not len(index) and grade != LOST:
            continue
        starts, sizes = candidates.starts[index], candidates.sizes[index]
        certainty, why = POSSIBLE, _WHY.get(grade, "")
        if grade == LOST:
            certainty, why = (LIKELY, "; ".join(doubts)) if doubts else (PROVEN, "")
        groups = _groups(starts, sizes, last, classes, scanner, known_sizes)
        found.append(
            LostBlocks(grade, certainty, why, len(index), int(sizes.sum()), tuple(groups), array("Q", starts.tobytes()))
        )
    return found


_WHY: Final = {
    LEFT_OVER: "only leftovers of free lists point at them: lost, or reached by a pointer to their last word",
    HIDDEN: "other words fit their addresses: pointers that are compressed or XORed",
}


@dataclass(slots=True)
class _Group:
    """Lost blocks that are alike: the place of the first, and how many they are."""

    first: int
    number: int = 0


def _groups(
    starts: Words, sizes: Words, last: Scan, classes: Classes, scanner: Scanner, known_sizes: KnownSizes
) -> list[LostGroup]:
    shown = scanner.reader.words(starts[:_MAX_HINTED] & np.uint64(~7 & (1 << 64) - 1), HINT_WORDS)
    groups: dict[tuple[int, str, str], _Group] = {}
    for part in parts(len(starts)):
        names = _class_names(starts[part], last, classes)
        for place, (size, name) in enumerate(zip(sizes[part].tolist(), names, strict=True), part.start):
            text = ""
            if place < len(shown) and not name:
                text = hint(shown[place].tobytes()[: size - 8], size, known_sizes)
            groups.setdefault((size, name, _kind_of_hint(text)), _Group(place)).number += 1
    texts = {}
    for key, group in groups.items():
        data = shown[group.first].tobytes()[: key[0] - 8] if group.first < len(shown) else b""
        texts[key] = hint(data, key[0], known_sizes) if not key[1] else ""
    found = [
        LostGroup(key[0], group.number, key[0] * group.number, key[1], texts[key], int(starts[group.first]))
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda group: -group.n_bytes)[:_MAX_GROUPS]


def _kind_of_hint(text: str) -> str:
    return "text" if text.startswith("text ") else text


def _class_names(starts: Words, last: Scan, classes: Classes) -> list[str]:
    index = last.table.look(starts)
    numbers = [int(classes.of_blocks[each]) if each >= 0 else -1 for each in index.tolist()]
    return [classes.names[number] if number >= 0 else "" for number in numbers]
