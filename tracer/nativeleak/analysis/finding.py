"""A finding: memory of one cause, whatever the number of threads and paths it came by."""

from __future__ import annotations

from dataclasses import dataclass

from nativeleak.analysis.growth import Growth
from nativeleak.analysis.paths import Step


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


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: ``suspects`` grow, fastest first; ``others`` hold or held something and do not."""

    suspects: tuple[Finding, ...] = ()
    others: tuple[Finding, ...] = ()
    growth: Growth | None = None
