"""Limits and resident memory in a recording; empty in recordings of versions that did not record them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from nativeleak.model import Limit, LimitKind, MemoryLine, MemoryReading, ProcessMemory


@dataclass(frozen=True, slots=True)
class RecordedMemory:
    """What a recording holds of memory beside its sites.

    Attributes:
        limits: In the order in which they were found.
        usage: For each limit the bytes used, by number of the snapshot.
        processes: Sums of the targets, by number of the snapshot.
        readings: Resident memory by use, in order of time.
    """

    limits: tuple[Limit, ...] = ()
    usage: tuple[Mapping[int, int], ...] = ()
    processes: Mapping[int, tuple[ProcessMemory, ...]] = field(default_factory=dict)
    readings: tuple[MemoryReading, ...] = ()

    @classmethod
    def read(cls, db: sqlite3.Connection) -> Self:
        """What the tables hold.

        Raises:
            ValueError: They are damaged.
            sqlite3.Error: They cannot be read.
        """
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'memory_lines'").fetchone() is None:
            return cls()
        limits = [
            Limit(slot, LimitKind(kind), name, limit_bytes)
            for slot, kind, name, limit_bytes in db.execute(
                "SELECT slot, kind, name, limit_bytes FROM limits ORDER BY id"
            )
        ]
        usage: list[dict[int, int]] = [{} for _ in limits]
        for number, limit_id, usage_bytes in db.execute("SELECT * FROM limit_usage ORDER BY snapshot_id"):
            usage[limit_id][number] = usage_bytes
        processes: dict[int, tuple[ProcessMemory, ...]] = {}
        for number, *values in db.execute("SELECT * FROM process_memory ORDER BY snapshot_id, slot"):
            processes[number] = (*processes.get(number, ()), ProcessMemory(*values))
        lines: dict[tuple[float, int], dict[MemoryLine, int]] = {}
        for elapsed_s, slot, line, n_bytes in db.execute("SELECT * FROM memory_lines ORDER BY elapsed_s, slot"):
            lines.setdefault((float(elapsed_s), slot), {})[MemoryLine(line)] = n_bytes
        readings = tuple(MemoryReading(slot, elapsed_s, each) for (elapsed_s, slot), each in lines.items())
        return cls(tuple(limits), tuple(usage), processes, readings)
