"""What an engine can see of a process: facts that a report states without knowing the engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StackCoverage(StrEnum):
    """Which call sites have a call stack."""

    ALL = "all"
    """Every site: one without a stack has lost it."""
    SOME = "some"
    """Where the engine could walk one: a site without a stack is nothing unusual."""
    NONE = "none"
    """No site: the single frame in brackets names the region of memory."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the engine of a recording could see.

    Attributes:
        stacks: Which sites have a call stack.
        has_threads: Whether sites are told apart by thread.
        has_blocks: Whether single allocations are counted, and not only address space.
        has_unmappers: Whether the sites that gave address space back are known.
        not_available: What a report lacks that one by the best engine has, as a list in words; empty: nothing.
        hits: What ``probe_hits`` counts, in the plural.
    """

    stacks: StackCoverage = StackCoverage.ALL
    has_threads: bool = True
    has_blocks: bool = True
    has_unmappers: bool = True
    not_available: str = ""
    hits: str = "probe hits"
