"""A finding: memory of one cause, whatever the number of threads and paths it came by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.paths import Step

MIN_SHARE_PCT: Final = 1.0
"""Of the growth of the process: what grows by less is no suspect."""
_MOST_SHARE: Final = 0.50


@dataclass(frozen=True, slots=True)
class Finding:
    """Memory of one cause: paths that meet in one frame.

    Attributes:
        name: The frame's function, or what a runtime uses the memory for.
        called_by: The caller that sets it apart from others of the same name; None where the name is enough.
        step: The frame; None for memory of a runtime.
        kind: ``java``, ``native``, ``mapping``, ``threads``, ``jvm`` or ``pool``.
        what: Kind of memory in words; None where nothing is known.
        pool: Name of the pool inside; None without one.
        switch: How to see past the pool; empty where nothing does.
        fillers: Of a pool that several functions made take memory: they, most first.
        note: What its stacks do not show, and which tool does; None where nothing is missing.
        threads: Name of the thread, or the pattern of most of them.
        slots: Targets.
        n_stacks: Distinct machine stacks.
        resident_bytes: Resident part; None for heap.
        growth: Of outstanding bytes; for mappings of what is resident, with the verdict on the outstanding bytes.
        share_pct: Share of the growth of the process, 0.0 where it does not grow.
        peak_bytes: Highest outstanding bytes.
        peak_s: When.
        path: Steps that tell it apart, leaf first.
        stack_keys: Its stacks, largest first.
        positions: Its sites, as positions in ``Recording.sites``.
        median_age_s: Half of its bytes are older, to the width of a birth slice; None where no birth is known.
        bounded_by: What bounds it, so that it is no leak whatever its growth; None where nothing is known to.
        is_minor: It is memory of a runtime that tells nothing of the process: too little, or a working store.
    """

    name: str
    called_by: str | None
    step: Step | None
    kind: str
    what: str | None
    pool: str | None
    switch: str
    fillers: tuple[str, ...]
    note: str | None
    threads: str
    n_threads: int
    slots: tuple[int, ...]
    n_stacks: int
    outstanding_bytes: int
    outstanding_count: int
    allocated_bytes: int
    freed_bytes: int
    resident_bytes: int | None
    oldest_s: float | None
    is_sampled: bool
    growth: Growth
    share_pct: float
    peak_bytes: int
    peak_s: float
    path: tuple[Step, ...]
    stack_keys: tuple[int, ...]
    positions: tuple[int, ...]
    median_age_s: float | None = None
    bounded_by: str | None = None
    is_minor: bool = False

    @property
    def is_suspect(self) -> bool:
        """Whether it grows for certain, by enough of the process's growth, and without a bound that is known."""
        if self.bounded_by is not None or self.is_minor:
            return False
        grows = self.growth.verdict is Verdict.GROWING and self.growth.slope_bytes_per_s > 0
        return grows and self.share_pct >= MIN_SHARE_PCT

    @property
    def churns(self) -> bool:
        """Whether memory of it was freed during the trace."""
        return self.freed_bytes > 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: ``suspects`` grow, fastest first; ``others`` hold or held something and do not."""

    suspects: tuple[Finding, ...] = ()
    others: tuple[Finding, ...] = ()
    growth: Growth | None = None


def growth_of_all(growth: Growth, suspects: Sequence[Finding]) -> Growth:
    """The growth of everything: certain where what grows for certain makes up most of it."""
    explained = sum(each.growth.slope_bytes_per_s for each in suspects)
    if growth.verdict is Verdict.UNDECIDED and explained >= _MOST_SHARE * growth.slope_bytes_per_s > 0:
        return replace(growth, verdict=Verdict.GROWING, enough_s=None)
    return growth
