"""What probes cost on this host, and what was seen of the targets: the figures that decisions are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nativeleak.model import Level


class Plan(NamedTuple):
    """How to watch: a level and, when sampled, the mean bytes from one sample to the next."""

    level: Level
    sample_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """What probes cost here, nanoseconds.

    Attributes:
        call_ns: The trap at the entry of an allocating function.
        free_ns: The trap at the entry of a freeing function.
        return_ns: The trap at a return.
        run_ns: What our program takes itself, a hit of the exact level: on average over entries, returns and frees.
        light_run_ns: The same where it only looks whether a block is sampled, or misses.
    """

    call_ns: float
    free_ns: float
    return_ns: float
    run_ns: float
    light_run_ns: float


@dataclass(frozen=True, slots=True)
class Load:
    """What was seen of the targets for some time; rates a second.

    Attributes:
        calls: Entries of allocating functions that were trapped.
        frees: Entries of freeing functions that were trapped.
        returns: Returns that were trapped.
        followed: Of the calls: those that were recorded.
        cpu: CPU seconds a second that the targets used, ours in them.
        run_ns: What a hit of our programs took, where that was measured; None otherwise.
        reach: Part of the time of the targets' runnable threads in which these ran; less than 1 where cores are scarce.
    """

    calls: float
    frees: float
    returns: float
    followed: float
    cpu: float
    run_ns: float | None = None
    reach: float = 1.0

    @property
    def busy(self) -> float:
        """Time of busy threads, seconds a second: what the targets use, or one thread as far as it gets a core."""
        return max(self.reach, self.cpu)

    @property
    def hits(self) -> float:
        """Runs of a probe."""
        return self.calls + self.frees + self.returns
