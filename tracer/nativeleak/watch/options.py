"""What a watch does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LEAST_EVERY_S = 0.1
"""Shortest time between two lines."""


@dataclass(frozen=True, slots=True)
class Alarms:
    """Conditions that are looked at all the time; None: not asked for.

    Attributes:
        rss_bytes: Resident memory above this.
        growth_bytes_per_s: Resident and swapped memory grows faster than this, for certain.
        group_pct: A memory group's usage above this share of its limit, page cache left out.
    """

    rss_bytes: int | None = None
    growth_bytes_per_s: float | None = None
    group_pct: float | None = None

    @property
    def is_any(self) -> bool:
        """Whether there is a condition at all."""
        return (self.rss_bytes, self.growth_bytes_per_s, self.group_pct) != (None, None, None)


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Options of one watch.

    Attributes:
        pid: The process.
        every_s: Time between two lines. Full readings are no more frequent, and cost no more than 1 % of a core.
        duration_s: None: until the process ends or Ctrl-C.
        alarms: When something is to be done.
        command: For the shell, at an alarm; empty for none.
        trace_s: How long a trace lasts that an alarm starts; None: no trace.
        output: File of the last minutes; None: none is written.
        folder: Where commands run and recordings go.
        asks_jvm: Whether the JVM may be asked too, by its attach mechanism.
        is_quiet: Whether a trace that an alarm starts keeps its progress to itself.
    """

    pid: int
    every_s: float = 10.0
    duration_s: float | None = None
    alarms: Alarms = field(default_factory=Alarms)
    command: str = ""
    trace_s: float | None = None
    output: Path | None = None
    folder: Path = field(default_factory=Path.cwd)
    asks_jvm: bool = False
    is_quiet: bool = False
