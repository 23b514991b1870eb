"""When the next full reading is due: no more often than wanted, and never for more than 1 % of a core.

Scope: arithmetic. The reading of smaps in it holds up the target's mmap, and takes about 7 ms a resident GiB; the walk
of the heap takes some 180 ms a million blocks.

Source: rss-ledger-and-verdicts.md, 2; arena.md, 2.7.
"""

from __future__ import annotations

from typing import Final

PAUSE_FACTOR: Final = 100
"""Times its own CPU time that a reading is not repeated for."""


class Pace:
    """The times of full readings of one watch.

    Args:
        every_s: Time between two readings that is wanted.

    Attributes:
        interval_s: Time between two readings that the last one's cost allows.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = 0.0
        self.interval_s = every_s

    def is_due(self, now_s: float) -> bool:
        """Whether the next reading may begin."""
        return now_s >= self._next_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until it may."""
        return max(0.0, self._next_s - now_s)

    def took(self, began_s: float, cpu_s: float) -> None:
        """A reading has ended.

        Args:
            began_s: When it began.
            cpu_s: CPU time that it took, the kernel's on its behalf too.
        """
        self.interval_s = max(self._every_s, PAUSE_FACTOR * cpu_s)
        self._next_s = began_s + self.interval_s
