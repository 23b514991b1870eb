"""How much reading a look at a Java heap may cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

MAX_PASSES: Final = 5


@dataclass(slots=True)
class Budget:
    """Bounds of one look; with each of them it ends early, with what is known by then.

    Attributes:
        seconds: Of time; None for no bound.
        n_bytes: Read from the target; None for no bound.
        n_passes: Over the heap.
        n_holders: Followed upwards; of more of them a sample is.
        n_objects: Followed upwards in all.
        n_of_class: Of these, of one class: more are the links of one long list.
        n_edges: References kept; each takes 25 bytes, three times as much while they are put in order.
    """

    seconds: float | None = None
    n_bytes: int | None = None
    n_passes: int = MAX_PASSES
    n_holders: int = 100_000
    n_objects: int = 500_000
    n_of_class: int = 100_000
    n_edges: int = 1_000_000
    _started: float = field(default_factory=time.monotonic)

    def spent(self, n_bytes: int) -> str | None:
        """Which bound was met, for people; None while there is room.

        Args:
            n_bytes: Read so far.
        """
        if self.seconds is not None and time.monotonic() - self._started > self.seconds:
            return f"the time budget of {self.seconds:g} s is spent"
        if self.n_bytes is not None and n_bytes > self.n_bytes:
            return f"the budget of {self.n_bytes} bytes read is spent"
        return None
