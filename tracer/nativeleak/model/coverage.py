"""Facts that an engine can see of a process. A report states them without knowing the engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StackCoverage(StrEnum):
    """Call sites that have a call stack."""

    ALL = "all"
    """Every site; a site without a stack has lost it."""
    SOME = "some"
    """Sites whose stack the engine could walk; sites without a stack are normal."""
    NONE = "none"
    """No site: the single frame in brackets names the region of memory."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of a recording by its engine.

    Attributes:
        stacks: Sites that have a call stack.
        has_threads: Whether sites of different threads are separate.
        has_blocks: Whether single allocations are counted, and not only address space.
        has_unmappers: Whether callers that unmapped memory are known.
        not_available: Facts that only a better engine gives, as a list in words; empty for the best engine.
        hits: Unit of ``probe_hits``, in the plural.
    """

    stacks: StackCoverage = StackCoverage.ALL
    has_threads: bool = True
    has_blocks: bool = True
    has_unmappers: bool = True
    not_available: str = ""
    hits: str = "probe hits"
