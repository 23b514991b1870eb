"""Blocks of a recording among those that a look finds: what a traced call path lost, and who holds the rest.

Scope: recordings that keep the addresses of outstanding blocks (``nativeleak trace --blocks``), of the same process. A
block that was freed since and whose address was allocated again counts as the recorded one.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nativeleak.errors import UsageError
from nativeleak.heaps.memory import Flags, Places, Words
from nativeleak.holders.table import NONE, Blocks, BlockTable
from nativeleak.model import BlockChunk, BlockFate, SiteFate
from nativeleak.process.check import TargetFacts
from nativeleak.process.procfs import read_boot_id
from nativeleak.recording import Recording, open_recording

if TYPE_CHECKING:
    from nativeleak.analysis.finding import Finding

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
    sites: Places
    keys: tuple[tuple[int, int], ...]
    n_unlisted: int = 0


def read_recorded(path: Path, target: TargetFacts) -> RecordedBlocks:
    """The blocks of a process in a recording.

    Raises:
        UsageError: It is a recording of another process, or keeps no blocks.
        RecordingError: It cannot be read.
    """
    with open_recording(path) as recording:
        slot = _slot_of(recording, target)
        chunks = recording.blocks()
        columns = [unpack(chunk, recording.name) for chunk in chunks if chunk.columns]
        n_unlisted = sum(chunk.n for chunk in chunks if not chunk.columns)
        if not columns:
            raise UsageError(
                f"reading {path} failed: it has no addresses of blocks", "Record them: nativeleak trace --blocks -p PID"
            )
        ended = recording.info.started + recording.elapsed_s
    addresses, stacks, n_bytes, slots, threads = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    chosen = np.flatnonzero(slots == slot)
    chosen = chosen[np.argsort(addresses[chosen], kind="stable")]
    sites, keys = _sites(threads[chosen], stacks[chosen])
    ago_s = max(0.0, time.time() - ended)
    return RecordedBlocks(recording.name, slot, ago_s, addresses[chosen], n_bytes[chosen], sites, keys, n_unlisted)


def _sites(threads: Blocks, stacks: Words) -> tuple[Places, tuple[tuple[int, int], ...]]:
    """The site of each block, and thread and stack of each site."""
    pairs = np.empty(len(threads), [("thread", np.uint32), ("stack", np.uint64)])
    pairs["thread"], pairs["stack"] = threads, stacks
    keys, sites = np.unique(pairs, return_inverse=True)
    return sites.reshape(-1).astype(np.int64), tuple((int(thread), int(stack)) for thread, stack in keys.tolist())


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
    recorded: RecordedBlocks, table: BlockTable, owners: Blocks, names: Sequence[str], lost: Sequence[int]
) -> list[SiteFate]:
    """What became of the blocks of each site.

    Args:
        recorded: The blocks.
        table: Blocks of the last scan.
        owners: Number of the nearest holder of each; ``NONE`` for none.
        names: Of the holders.
        lost: First addresses of lost blocks, ascending.
    """
    index = table.look(recorded.addresses)
    is_there = index >= 0
    if len(table):
        offsets = recorded.addresses - table.starts[np.clip(index, 0, None)]
        is_there &= offsets < np.uint64(_MAX_OFFSET)
    lost_starts = np.array(lost, np.uint64)
    is_lost = np.zeros(len(index), np.bool_)
    is_lost[is_there] = np.isin(table.starts[index[is_there]], lost_starts)
    owner = np.full(len(index), NONE, np.uint32)
    owner[is_there] = owners[index[is_there]]
    sites, n_sites = recorded.sites, len(recorded.keys)
    held_by = _holders(sites, owner, is_there & ~is_lost & (owner != NONE), names)
    lost_bytes = [0] * n_sites
    for site, n_bytes in zip(sites[is_lost].tolist(), recorded.n_bytes[is_lost].tolist(), strict=True):
        lost_bytes[site] += n_bytes
    counts = zip(
        np.bincount(sites, minlength=n_sites).tolist(),
        np.bincount(sites[is_there], minlength=n_sites).tolist(),
        np.bincount(sites[is_lost], minlength=n_sites).tolist(),
        lost_bytes,
        strict=True,
    )
    return [
        SiteFate(recorded.slot, *key, BlockFate(*numbers, tuple(held_by.get(site, ())[:_MAX_HOLDERS])))
        for site, (key, numbers) in enumerate(zip(recorded.keys, counts, strict=True))
    ]


def _holders(sites: Places, owner: Blocks, is_held: Flags, names: Sequence[str]) -> dict[int, list[tuple[str, int]]]:
    """Names of the holders of the blocks of each site, with their numbers of blocks, most first."""
    pairs = sites[is_held] * np.int64(len(names) or 1) + owner[is_held]
    values, counts = np.unique(pairs, return_counts=True)
    found: dict[int, list[tuple[str, int]]] = {}
    for place in np.argsort(-counts, kind="stable").tolist():
        site, number = divmod(int(values[place]), len(names))
        found.setdefault(site, []).append((names[number], int(counts[place])))
    return found
