"""All processes by memory, looked at again and again: what each holds and how it grew meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nativeleak.process.procfs import read_boot_id
from nativeleak.processes.reading import Process
from nativeleak.units import format_bytes, format_duration, format_rate

SCHEMA: Final = "nativeleak.top/1"
ORDERS: Final = ("rss", "anon", "swap", "growth", "since-start")
HEADINGS: Final = ("PID", "user", "resident", "anonymous", "swap", "growth", "rate", "since start", "age", "name")
WIDTHS: Final = (9, 11, 11, 11, 10, 11, 14, 14, 9, 0)


class Row(NamedTuple):
    """A process and how it grew.

    Attributes:
        process: As it is now.
        growth: Bytes that it holds more than at the first look at it; None at that look.
        watched_s: Seconds since that look.
    """

    process: Process
    growth: int | None
    watched_s: float

    @property
    def per_s(self) -> float:
        """Bytes a second since the first look."""
        return (self.growth or 0) / self.watched_s if self.watched_s else 0.0


@dataclass(slots=True)
class Growth:
    """Remembers what each process held when it was first seen; a PID that was taken again is another process."""

    _first: dict[tuple[int, float], tuple[int, float]] = field(default_factory=dict)

    def rows(self, processes: Sequence[Process], now_s: float) -> list[Row]:
        """The processes with their growth; those that ended are forgotten.

        Args:
            processes: As they are now.
            now_s: On a clock that never goes back.
        """
        before, self._first = self._first, {}
        rows = []
        for process in processes:
            key = process.pid, process.started_s
            held, seen_s = self._first[key] = before.get(key, (process.held, now_s))
            rows.append(Row(process, process.held - held if now_s > seen_s else None, now_s - seen_s))
        return rows


def ordered(rows: Sequence[Row], order: str) -> list[Row]:
    """The largest first by one of ``ORDERS``."""
    keys: dict[str, Callable[[Row], float]] = {
        "rss": lambda row: row.process.rss,
        "anon": lambda row: row.process.anonymous,
        "swap": lambda row: row.process.swap,
        "growth": lambda row: row.growth or 0,
        "since-start": lambda row: row.process.hourly,
    }
    return sorted(rows, key=lambda row: (-keys[order](row), -row.process.held))


def cells(row: Row) -> tuple[str, ...]:
    """What stands in the columns of ``HEADINGS``."""
    process = row.process
    sign = "+" if (row.growth or 0) > 0 else ""
    return (
        str(process.pid), process.user[:10], format_bytes(process.rss), format_bytes(process.anonymous),
        format_bytes(process.swap), "" if row.growth is None else f"{sign}{format_bytes(row.growth)}",
        format_rate(row.per_s) if row.growth else "", format_rate(process.hourly / 3600),
        format_duration(process.age_s), process.title,
    )  # fmt: skip


def summary(rows: Sequence[Row]) -> str:
    """Memory of the machine and of all processes."""
    total, available, swap_total, swap_free = read_meminfo()
    swap = f", swap {format_bytes(swap_total - swap_free)} of {format_bytes(swap_total)}" if swap_total else ", no swap"
    anonymous = sum(row.process.anonymous for row in rows)
    return (
        f"{format_bytes(total - available)} of {format_bytes(total)} taken{swap}; {len(rows):,} processes, "
        f"{format_bytes(anonymous)} anonymous"
    )


def render_lines(rows: Sequence[Row], n_rows: int, all_rows: Sequence[Row]) -> Iterator[str]:
    """A table for a file or a pipe."""
    yield summary(all_rows)
    yield _line(HEADINGS)
    yield from (_line(cells(row)) for row in rows[:n_rows])


def as_object(rows: Sequence[Row], n_rows: int) -> dict[str, Any]:
    """One look as ``nativeleak.top/1``; sizes in bytes, rates in bytes a second."""
    total, available, swap_total, swap_free = read_meminfo()
    system = os.uname()
    return {
        "schema": SCHEMA,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "host": {"kernel": system.release, "machine": system.machine, "boot_id": read_boot_id()},
        "machine": {"memory_bytes": total, "available_bytes": available, "swap_bytes": swap_total,
                    "swap_free_bytes": swap_free},
        "processes": [
            {
                "pid": row.process.pid, "name": row.process.name, "title": row.process.title,
                "user": row.process.user, "age_s": round(row.process.age_s, 1), "rss_bytes": row.process.rss,
                "anonymous_bytes": row.process.anonymous, "swap_bytes": row.process.swap,
                "growth_bytes": row.growth, "watched_s": round(row.watched_s, 3),
                "since_start_bytes_per_s": round(row.process.hourly / 3600, 3),
            }
            for row in rows[:n_rows]
        ],
    }  # fmt: skip


def read_meminfo() -> tuple[int, int, int, int]:
    """(all, available, swap, free swap) of the machine, bytes; zeros where /proc/meminfo does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        fields = {}
    total, available, swap, free = (
        int(fields.get(name, "0").split()[0]) << 10 for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    )
    return total, available, swap, free


def _line(texts: Sequence[str]) -> str:
    parts = [
        text.ljust(width) if heading in ("user", "name") else text.rjust(width)
        for text, width, heading in zip(texts, WIDTHS, HEADINGS, strict=True)
    ]
    return " ".join((parts[0], parts[1], *parts[2:-1], " " + parts[-1])).rstrip()
