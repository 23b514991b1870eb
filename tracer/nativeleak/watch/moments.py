"""What is known of the process at one moment: the kernel's counts always, all lines at times."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from nativeleak.model import LimitKind, LimitUse
from nativeleak.process import procfs
from nativeleak.process.limits import ProcessLimits, kib_field
from nativeleak.process.procfs import TargetGoneError
from nativeleak.triage.lines import Ledger

_FIELDS: Final = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmSwap", "VmPTE")


@dataclass(frozen=True, slots=True)
class Status:
    """The kernel's running counts; reading them costs the target nothing, and 12 us.

    Attributes:
        elapsed_s: Since the watch began.
        when_s: Seconds since 1970.
        rss_bytes: Resident memory; ``anon_bytes``, ``file_bytes`` and ``shmem_bytes`` are its parts.
        swap_bytes: Swapped out.
        page_table_bytes: Beside resident memory.
        n_threads: Threads.
        limits: Limits outside of the process with their usage.
    """

    elapsed_s: float
    when_s: float
    rss_bytes: int
    anon_bytes: int
    file_bytes: int
    shmem_bytes: int
    swap_bytes: int
    page_table_bytes: int
    n_threads: int
    limits: tuple[LimitUse, ...] = ()

    @property
    def held_bytes(self) -> int:
        """Resident and swapped: what does not fall when memory is short."""
        return self.rss_bytes + self.swap_bytes

    @property
    def tightest_group(self) -> LimitUse | None:
        """The memory group whose limit is used most; None without one."""
        groups = [use for use in self.limits if use.limit.kind is LimitKind.CGROUP and use.usage_bytes is not None]
        return max(groups, key=used_share, default=None)


@dataclass(frozen=True, slots=True)
class LineReading:
    """All lines of resident memory at one moment.

    Attributes:
        elapsed_s: Since the watch began.
        resident: Bytes in memory by line; the lines add up to ``rss_bytes``.
        used: Bytes in use by line, where its owner counts them.
        rss_bytes: All resident memory.
        cost_s: CPU time of the reading.
        walked_share: How much of the heaps was read as blocks, 0 to 1; None where no heap was walked.
        said: What the JVM says of itself, by NMT category; empty unless it was asked.
    """

    elapsed_s: float
    resident: dict[str, int]
    used: dict[str, int]
    rss_bytes: int
    cost_s: float
    walked_share: float | None
    said: dict[str, int]


def used_share(use: LimitUse) -> float:
    """How much of a limit is used, 0 to 1 and beyond; 0 where it is not known."""
    return (use.usage_bytes or 0) / use.limit.limit_bytes if use.limit.limit_bytes else 0.0


def read_moment(pid: int, elapsed_s: float, limits: ProcessLimits) -> Status:
    """The kernel's counts now.

    Raises:
        TargetGoneError: The process has ended, or is about to: it has no memory any more.
        CannotTraceError: It may not be read with these rights.
    """
    fields = procfs.read_status(pid)
    if "VmRSS" not in fields:
        raise TargetGoneError(f"reading /proc/{pid}/status failed: process {pid} has ended")
    rss, anon, file, shmem, swap, tables = (kib_field(fields, name) or 0 for name in _FIELDS)
    threads = fields.get("Threads", "0")
    n_threads = int(threads) if threads.isdigit() else 0
    return Status(elapsed_s, time.time(), rss, anon, file, shmem, swap, tables, n_threads, tuple(limits.read(fields)))


def reading_of(ledger: Ledger, elapsed_s: float, cost_s: float, said: dict[str, int]) -> LineReading:
    """The lines of a ledger."""
    walked = [walk.walked_share for walk in ledger.walks]
    return LineReading(
        elapsed_s,
        {line.id: line.resident for line in ledger.lines if line.resident},
        {line.id: line.used for line in ledger.lines if line.used is not None},
        ledger.rss,
        cost_s,
        min(walked) if walked else None,
        said,
    )


def as_time(when_s: float) -> str:
    """ISO 8601 in UTC."""
    return datetime.fromtimestamp(when_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
