"""The table of tasks in an OOM report, by the names in its head: five heads since 2.6.32, 9 to 12 columns."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_HEAD: Final = re.compile(r"\[\s*pid\s*\]\s+uid\s+tgid\s+total_vm\s+rss\s+(.*)")
_ROW: Final = re.compile(r"\[\s*(\d{1,10})\]\s+((?:-?\d{1,20}\s+)+)(.*)")


class Task(NamedTuple):
    """One row; sizes in pages, where not named otherwise; None: no such column."""

    pid: int
    uid: int
    total_vm: int
    rss: int
    swap: int | None
    pgtables_bytes: int | None
    oom_score_adj: int | None
    comm: str


class TaskTable:
    """Reads rows by the last head."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def is_head(self, text: str) -> bool:
        """Whether a line is a head, which is remembered."""
        found = _HEAD.match(text)
        if found:
            self._names = ["uid", "tgid", "total_vm", "rss", *found[1].split()[:-1]]
        return found is not None

    def feed(self, text: str) -> Task | None:
        """The row in a line; None for no row, or one without a head above it."""
        found = _ROW.match(text)
        if found is None or not self._names:
            return None
        numbers = found[2].split()
        name = found[3]
        extra = len(numbers) - len(self._names)
        if extra > 0:  # a name that begins with a number
            name = " ".join([*numbers[len(self._names) :], name])
        elif extra < 0:
            return None
        facts = dict(zip(self._names, map(int, numbers), strict=False))
        return Task(
            int(found[1]), facts["uid"], facts["total_vm"], facts["rss"], facts.get("swapents"),
            facts.get("pgtables_bytes"), facts.get("oom_score_adj"), name.strip(),
        )  # fmt: skip
