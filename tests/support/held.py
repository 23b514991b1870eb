"""The truth of the target ``held``: each block that it noted, and what a report says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from nativeleak.holders.result import HoldersReport

KINDS: Final = (
    "array", "list", "intrusive", "tree", "hash", "interior", "end", "thread local", "specific", "sleeping stack",
    "spinning stack", "sleeping register", "low tag", "high tag", "anonymous", "shared", "packed", "epoll", "timer",
    "xor list", "compressed", "encrypted", "lost", "lost list", "lost cycle", "lost tree", "churn", "lost running",
)  # fmt: skip
"""enum kind of held.c."""
LOST: Final = frozenset({"lost", "lost list", "lost cycle", "lost tree", "lost running"})
HIDDEN: Final = frozenset({"xor list", "compressed", "encrypted"})
_KEY: Final = np.uint64(0x5A5A5A5A5A5A5A5A)
_RECORD: Final = np.dtype([("address", "<u8"), ("size", "<u4"), ("kind", "<u4")])
_HEADER_BYTES: Final = 16


class Held(NamedTuple):
    """Blocks by address with their kinds, and how many were noted."""

    kinds: dict[int, str]
    order: dict[int, int]
    n_records: int


def read_held(path: Path) -> Held:
    """What the target noted so far; the last note of an address counts."""
    with path.open("rb") as file:
        n = int.from_bytes(file.read(8), "little")
        file.seek(_HEADER_BYTES)
        records = np.frombuffer(file.read(n * _RECORD.itemsize), _RECORD)
    addresses = (records["address"] ^ _KEY).tolist()
    kinds = records["kind"].tolist()
    return Held(
        {address: KINDS[kind] for address, kind in zip(addresses, kinds, strict=True)},
        {address: place for place, address in enumerate(addresses)},
        n,
    )


class Judgement(NamedTuple):
    """A report held against the truth.

    Attributes:
        false: Kinds of blocks that are called lost and are not; ``unknown`` for those that the target did not note.
        hidden: Kinds of blocks called lost whose pointers are hidden.
        n_lost: Blocks that were lost before the look.
        n_found: Of them, called lost.
        n_doubtful: Of them, in the other grades.
    """

    false: Counter[str]
    hidden: Counter[str]
    n_lost: int
    n_found: int
    n_doubtful: int


def judge(report: HoldersReport, before: Held, path: Path, *, offset: int = 0) -> Judgement:
    """Compare.

    Args:
        report: What was found.
        before: The truth before the look.
        path: Of the truth's file.
        offset: Most bytes between a slot's start and the program's address in it.
    """
    after = read_held(path)
    places = np.array(sorted(after.kinds), np.uint64)

    def kind_of(start: int) -> str:
        index = int(np.searchsorted(places, np.uint64(start)))
        near = int(places[index]) if index < len(places) else 1 << 63
        return after.kinds[near] if near - start <= offset else "unknown"

    grades = {each.grade: Counter(kind_of(start) for start in each.starts) for each in report.lost or ()}
    said = grades.get("lost", Counter())
    doubtful = Counter({kind: n for grade in ("leftover", "hidden") for kind, n in grades.get(grade, {}).items()})
    lost_before = Counter(kind for address, kind in before.kinds.items() if after.kinds.get(address) == kind)
    found_before = {
        kind_of(start) + str(start) for each in report.lost or () if each.grade == "lost" for start in each.starts
    }
    n_found = sum(
        1
        for address, kind in before.kinds.items()
        if kind in LOST and any(kind + str(address - shift) in found_before for shift in range(0, offset + 1, 16))
    )
    return Judgement(
        false=Counter({kind: n for kind, n in said.items() if kind not in LOST | HIDDEN}),
        hidden=Counter({kind: n for kind, n in said.items() if kind in HIDDEN}),
        n_lost=sum(n for kind, n in lost_before.items() if kind in LOST),
        n_found=n_found,
        n_doubtful=sum(doubtful.values()),
    )
