"""What the kernel's maps and the recorder's own tables take, and limits that keep both inside a bound."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Limits
from nativeleak.engines.options import TraceOptions
from nativeleak.errors import UsageError
from nativeleak.process import procfs
from nativeleak.process.cgroups import MemoryGroup, tightest_shared_group
from nativeleak.process.shortage import describe_room, no_room_error
from nativeleak.units import format_bytes

ENTRY_OVERHEAD_BYTES: Final = 90
"""What an element of a hash map takes beside its key and value: measured, 122 MB for a million of 8 + 24 bytes."""
_SITE_BYTES_HERE: Final = 4 << 10
"""What a site and its stack take in the recorder: its totals, slices, names and what the recording knows of it."""
_RECORDER_BYTES: Final = 16 << 20
"""What the recorder grows by once it works: symbols, unwind tables under way, SQLite."""
_FIXED_MAP_BYTES: Final = 10 << 20
"""Maps whose size does not depend on the limits, on a machine with two processors: stack walks, mappings, counters,
what is found without a search, unwind tables of some objects."""
_FIXED_MAP_CPUS: Final = 2
SCRATCH_BYTES: Final = 19768
"""``struct scratch`` of scratch.bpf.h: the buffer of one stack walk, of which each processor has several."""
_GROUP_SHARE: Final = 0.75
"""Of the room in a memory group that the target is in too."""
_MIN_ALLOCATIONS: Final = 1000
_MIN_SITES: Final = 256
_MIN_THREADS: Final = 64
_MIN_STACKS: Final = 256
_SHARES: Final = {"n_allocations": 0.55, "n_sites": 0.35, "n_new_stacks": 0.04, "n_stacks": 0.04, "n_threads": 0.02}


@dataclass(frozen=True, slots=True)
class _Table:
    field: str
    entry_bytes: int
    least: int


_TABLES: Final = (
    _Table("n_allocations", 8 + ctypes.sizeof(abi.Live) + ENTRY_OVERHEAD_BYTES, _MIN_ALLOCATIONS),
    _Table(
        "n_sites",
        ctypes.sizeof(abi.SiteKeyStruct) + ctypes.sizeof(abi.Site) + ENTRY_OVERHEAD_BYTES + _SITE_BYTES_HERE,
        _MIN_SITES,
    ),
    _Table(
        "n_new_stacks",
        8 + ctypes.sizeof(abi.StackStruct) + 2 * abi.CHUNK_FRAMES * abi.FRAME_BYTES + 3 * ENTRY_OVERHEAD_BYTES,
        _MIN_STACKS,
    ),
    _Table("n_stacks", 8 + 4 + ENTRY_OVERHEAD_BYTES, _MIN_STACKS),
    _Table("n_threads", 4 + abi.THREAD_BYTES + ENTRY_OVERHEAD_BYTES, _MIN_THREADS),
)


_LEAST_BYTES: Final = sum(table.least * table.entry_bytes for table in _TABLES)
"""What the smallest tables take."""


def fixed_map_bytes(n_cpus: int) -> int:
    """What maps take whose size does not depend on the limits.

    Args:
        n_cpus: Processors that the machine may have: ``read_possible_cpus``.
    """
    return _FIXED_MAP_BYTES + (n_cpus - _FIXED_MAP_CPUS) * abi.SCRATCH_PER_CPU * SCRATCH_BYTES


def parse_cpus(text: str) -> int:
    """The number of processors in a list such as ``0-3,8``.

    Raises:
        ValueError: It is no such list.
    """
    ranges = [part.split("-") for part in text.strip().split(",")]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


def read_possible_cpus() -> int:
    """Processors that the kernel has per-CPU data for, whether they are there or not.

    Source: Documentation/ABI/testing/sysfs-devices-system-cpu.
    """
    try:
        return parse_cpus(Path("/sys/devices/system/cpu/possible").read_text())
    except (OSError, ValueError):
        return os.cpu_count() or 1


def limits_of_trace(options: TraceOptions) -> tuple[Limits, str]:
    """Sizes of the maps inside ``--max-memory`` and a memory group shared with a target; what to say of the latter.

    Raises:
        NativeleakError: Not even the smallest fit.
    """
    limits, bound_bytes, n_cpus = options.limits, options.budget.max_memory_bytes, read_possible_cpus()
    if bound_bytes:
        limits = limits_within(limits, bound_bytes, procfs.read_rss(os.getpid()), n_cpus)
    group = tightest_shared_group(options.pids)
    if group is None:
        return limits, ""
    fitting = limits_in_group(limits, group, n_cpus)
    if fitting == limits:
        return limits, ""
    return fitting, (
        f"{describe_room(group)}, which the target shares: kernel maps hold at most {fitting.n_allocations}"
        f" allocations and {fitting.n_sites} sites"
    )


def limits_within(limits: Limits, bound_bytes: int, rss_bytes: int, n_cpus: int) -> Limits:
    """Limits under which recorder and maps together stay inside a bound even when every table is full.

    Args:
        limits: What was asked for: no limit gets larger.
        bound_bytes: ``--max-memory``.
        rss_bytes: What the recorder has resident already.
        n_cpus: Processors that the machine may have: ``read_possible_cpus``.

    Raises:
        UsageError: Not even the least tables fit.
    """
    # The ring is mapped twice here, and the kernel has it once.
    given_bytes = rss_bytes + _RECORDER_BYTES + fixed_map_bytes(n_cpus) + 3 * limits.ring_bytes
    least_bytes = given_bytes + _LEAST_BYTES
    if bound_bytes < least_bytes:
        raise UsageError(
            f"--max-memory {format_bytes(bound_bytes)} is too little: the recorder and its smallest tables take "
            f"{format_bytes(least_bytes)}",
            f"give at least --max-memory {-(-least_bytes >> 20)}M"
            + (", or a smaller --ring-size" if limits.ring_bytes > 1 << 20 else ""),
        )
    return _sized(limits, bound_bytes - given_bytes)


def limits_in_group(limits: Limits, group: MemoryGroup, n_cpus: int) -> Limits:
    """Limits under which what recorder and maps still take fits into a memory group that the target is in too.

    A quarter of the room stays the target's.

    Args:
        limits: What was asked for: no limit gets larger.
        group: With what the recorder takes already charged to it, or to no group.
        n_cpus: Processors that the machine may have: ``read_possible_cpus``.

    Raises:
        MendableError: Not even the least tables fit.
    """
    # A page of the ring is charged once, however often it is mapped.
    given_bytes = _RECORDER_BYTES + fixed_map_bytes(n_cpus) + limits.ring_bytes
    least_bytes = given_bytes + _LEAST_BYTES
    if group.room_bytes < least_bytes:
        raise no_room_error(group, least_bytes, "the recorder and its smallest tables")
    return _sized(limits, int(group.room_bytes * _GROUP_SHARE) - given_bytes)


def _sized(limits: Limits, for_tables: int) -> Limits:
    """Limits with every table in its share of so many bytes, none below its least."""
    sizes = {
        table.field: min(
            getattr(limits, table.field), max(table.least, int(for_tables * _SHARES[table.field] / table.entry_bytes))
        )
        for table in _TABLES
    }
    return replace(limits, **sizes)
