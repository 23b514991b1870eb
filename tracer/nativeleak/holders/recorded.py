"""Blocks of a recording among those that a look finds: what a traced call path lost, and who holds the rest.

Scope: recordings that keep the addresses of outstanding blocks (``nativeleak trace --blocks``), of the same process. A
block that was freed since and whose address was allocated again counts as the recorded one.
"""

from __future__ import annotations

import os
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.arrays import GrowingColumn, parts, pick
from nativeleak.errors import UsageError
from nativeleak.heaps.memory import Places, Words
from nativeleak.holders.table import NONE, Blocks, BlockTable
from nativeleak.model import BlockChunk, BlockFate, SiteFate
from nativeleak.process.check import TargetFacts
from nativeleak.process.procfs import read_boot_id
from nativeleak.recording import Recording, open_recording

if TYPE_CHECKING:
    from nativeleak.analysis.finding import Finding

Sites: TypeAlias = npt.NDArray[np.int32]

_MAX_OFFSET: Final = 4096
"""Most bytes between the start of a slot of musl and the program's address in it."""
_ROW_BYTES: Final = 8 + 8 + 8 + 4 + 4
_MAX_CHUNK: Final = 1 << 20
_MAX_HOLDERS: Final = 8
_SLACK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Cause:
    """One finding of a recording.

    Attributes:
        name: Its function, with the caller that tells it apart.
        place: Its file and line; empty where unknown.
        is_suspect: Whether it grows for certain.
    """

    name: str
    place: str
    is_suspect: bool


class TracedCause(NamedTuple):
    """A finding, and what became of its blocks."""

    cause: Cause
    fate: BlockFate


@dataclass(frozen=True, slots=True)
class RecordedBlocks:
    """Outstanding heap blocks of one target at the end of a trace.

    Attributes:
        name: Of the recording.
        slot: Number of the target in it.
        ended_s: Seconds since its end.
        addresses: Of the blocks, in ascending order.
        n_bytes: Requested, of each.
        sites: Index in ``keys`` of each.
        keys: Thread uid and key of the stack of each site.
        n_unlisted: Outstanding blocks of all targets whose addresses the recording leaves out.
    """

    name: str
    slot: int
    ended_s: float
    addresses: Words
    n_bytes: Words
    sites: Sites
    keys: tuple[tuple[int, int], ...]
    n_unlisted: int = 0


@dataclass(frozen=True, slots=True)
class RecordedTarget:
    """A recording that has the blocks of a process; they are read when they are needed.

    Attributes:
        path: Of the recording.
        slot: Number of the target in it.
        ended_s: Seconds since its end.
    """

    path: Path
    slot: int
    ended_s: float


def find_recorded(path: Path, target: TargetFacts) -> RecordedTarget:
    """The place of a process in a recording with addresses of blocks.

    Raises:
        UsageError: It is a recording of another process, or keeps no blocks.
        RecordingError: It cannot be read.
    """
    with open_recording(path) as recording:
        slot = _slot_of(recording, target)
        if not any(chunk.columns for chunk in recording.blocks()):
            raise UsageError(
                f"reading {path} failed: it has no addresses of blocks", "Record them: nativeleak trace --blocks -p PID"
            )
        ended = recording.info.started + recording.elapsed_s
    return RecordedTarget(path, slot, max(0.0, time.time() - ended))


def read_recorded(found: RecordedTarget) -> RecordedBlocks:
    """Its blocks.

    Raises:
        UsageError: They are damaged.
        RecordingError: The recording cannot be read.
    """
    addresses_, n_bytes_, sites_ = GrowingColumn(np.uint64), GrowingColumn(np.uint64), GrowingColumn(np.int32)
    numbers: dict[tuple[int, int], int] = {}
    n_unlisted = 0
    with open_recording(found.path) as recording:
        name = recording.name
        for chunk in recording.blocks():
            if not chunk.columns:
                n_unlisted += chunk.n
                continue
            addresses, stacks, n_bytes, slots, threads = unpack(chunk, name)
            chosen = slots == found.slot
            addresses_.add(addresses[chosen])
            n_bytes_.add(n_bytes[chosen])
            sites_.add(_sites(threads[chosen], stacks[chosen], numbers))
    addresses, n_bytes, sites = addresses_.take(), n_bytes_.take(), sites_.take()
    if not (addresses[1:] >= addresses[:-1]).all():
        order = np.argsort(addresses, kind="stable").astype(np.int32)
        addresses, n_bytes, sites = pick(addresses, order), pick(n_bytes, order), pick(sites, order)
    return RecordedBlocks(name, found.slot, found.ended_s, addresses, n_bytes, sites, tuple(numbers), n_unlisted)


def _sites(threads: Blocks, stacks: Words, numbers: dict[tuple[int, int], int]) -> Places:
    """The site of each block; new ones are added to the numbers of threads and stacks."""
    pairs = np.empty(len(threads), [("thread", np.uint32), ("stack", np.uint64)])
    pairs["thread"], pairs["stack"] = threads, stacks
    keys, sites = np.unique(pairs, return_inverse=True)
    places = [numbers.setdefault((int(thread), int(stack)), len(numbers)) for thread, stack in keys.tolist()]
    return np.array(places, np.int64)[sites.reshape(-1)]


def find_causes(path: Path, fates: Sequence[SiteFate]) -> list[TracedCause]:
    """What became of the blocks of each finding of a recording; suspects first, then by lost blocks.

    Raises:
        RecordingError: It cannot be read.
    """
    # pandas is loaded for it.
    from nativeleak.analysis.select import Selection
    from nativeleak.reports.build import build
    from nativeleak.reports.held import Held

    with open_recording(path) as recording:
        report = build(recording, Selection())
        held = Held.of_fates(recording, fates)
        found = [
            TracedCause(_cause(finding), fate)
            for finding in (*report.suspects, *report.findings)
            if (fate := held.of(finding)) is not None
        ]
    return sorted(found, key=lambda each: (not each.cause.is_suspect, -each.fate.lost_bytes))


def _cause(finding: Finding) -> Cause:
    frame = finding.step.frame if finding.step is not None else None
    place = f"{frame.file}:{frame.line}" if frame is not None and frame.file and frame.line else ""
    caller = f", called by {finding.called_by}" if finding.called_by else ""
    return Cause(f"{finding.name}{caller}", place, finding.is_suspect)


def _slot_of(recording: Recording, target: TargetFacts) -> int:
    """The target's number in a recording of this very process."""
    started = _started(target)
    for info in recording.targets:
        is_same = info.pid == target.pid and recording.info.boot_id == read_boot_id()
        if is_same and started <= recording.info.started + _SLACK_S:
            return info.slot
    told = ", ".join(f"{info.pid} ({info.comm})" for info in recording.targets) or "none"
    raise UsageError(
        f"joining with {recording.name} failed: process {target.pid} is not in it, which was made of {told}",
        "Name the process that was traced; it must not have been started again since.",
    )


def _started(target: TargetFacts) -> float:
    """When the process started, seconds since 1970."""
    uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - uptime_s + target.start_ticks / os.sysconf("SC_CLK_TCK")


def unpack(chunk: BlockChunk, name: str) -> tuple[Words, Words, Words, Blocks, Blocks]:
    """Addresses, stacks, bytes, slots, threads; source: ``model.BlockChunk``."""
    wanted = chunk.n * _ROW_BYTES
    try:
        data = zlib.decompressobj().decompress(chunk.columns, wanted + 1) if 0 <= chunk.n <= _MAX_CHUNK else b""
    except zlib.error:
        data = b""
    if not wanted or len(data) != wanted:
        raise UsageError(f"reading {name} failed: its addresses of blocks are damaged")
    wide = np.frombuffer(data, "<u8", 3 * chunk.n).astype(np.uint64).reshape(3, chunk.n)
    narrow = np.frombuffer(data, "<u4", 2 * chunk.n, 24 * chunk.n).astype(np.uint32).reshape(2, chunk.n)
    return wide[0], wide[1], wide[2], narrow[0], narrow[1]


def join(
    recorded: RecordedBlocks, table: BlockTable, owners: Blocks, names: Sequence[str], lost: Words
) -> list[SiteFate]:
    """What became of the blocks of each site.

    Args:
        recorded: The blocks.
        table: Blocks of the last scan.
        owners: Number of the nearest holder of each; ``NONE`` for none.
        names: Of the holders.
        lost: First addresses of lost blocks, ascending.
    """
    n_sites, n_names = len(recorded.keys), len(names) or 1
    n_there, n_lost, n_all = (np.zeros(n_sites, np.int64) for _ in range(3))
    lost_bytes = np.zeros(n_sites, np.uint64)
    held: Counter[int] = Counter()
    for part in parts(len(recorded.addresses)):
        sites, addresses = recorded.sites[part].astype(np.int64), recorded.addresses[part]
        index = table.look(addresses)
        is_there = index >= 0
        clipped = np.clip(index, 0, None)
        is_lost, owner = np.zeros(len(index), np.bool_), np.full(len(index), NONE, np.uint32)
        if len(table):
            starts = table.starts[clipped]
            is_there &= addresses - starts < np.uint64(_MAX_OFFSET)
            owner[is_there] = owners[clipped[is_there]]
            if len(lost):
                is_lost = is_there & (lost[np.clip(np.searchsorted(lost, starts), None, len(lost) - 1)] == starts)
        n_all += np.bincount(sites, minlength=n_sites)
        n_there += np.bincount(sites[is_there], minlength=n_sites)
        n_lost += np.bincount(sites[is_lost], minlength=n_sites)
        np.add.at(lost_bytes, sites[is_lost], recorded.n_bytes[part][is_lost])
        is_held = is_there & ~is_lost & (owner != NONE)
        values, counts = np.unique(sites[is_held] * n_names + owner[is_held], return_counts=True)
        held.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    held_by: dict[int, list[tuple[str, int]]] = {}
    for pair, count in sorted(held.items(), key=lambda item: (-item[1], item[0])):
        site, number = divmod(pair, n_names)
        held_by.setdefault(site, []).append((names[number], count))
    columns = zip(n_all.tolist(), n_there.tolist(), n_lost.tolist(), lost_bytes.tolist(), strict=True)
    return [
        SiteFate(recorded.slot, *key, BlockFate(*numbers, tuple(held_by.get(site, ())[:_MAX_HOLDERS])))
        for site, (key, numbers) in enumerate(zip(recorded.keys, columns, strict=True))
    ]
