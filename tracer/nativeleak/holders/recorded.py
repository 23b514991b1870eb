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
from typing import Final

import numpy as np

from nativeleak.analysis.finding import Finding
from nativeleak.analysis.select import Selection
from nativeleak.errors import UsageError
from nativeleak.heaps.memory import Places, Words
from nativeleak.holders.table import NONE, Blocks, BlockTable
from nativeleak.model import BlockChunk, Kind
from nativeleak.process.check import TargetFacts
from nativeleak.process.procfs import read_boot_id
from nativeleak.recording import Recording, open_recording
from nativeleak.reports.build import build

_MAX_OFFSET: Final = 4096
"""Most bytes between the start of a slot of musl and the program's address in it."""
_ROW_BYTES: Final = 8 + 8 + 8 + 4 + 4
_MAX_CHUNK: Final = 1 << 20
_MAX_HOLDERS: Final = 3
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


@dataclass(frozen=True, slots=True)
class RecordedBlocks:
    """Outstanding heap blocks of one target at the end of a trace.

    Attributes:
        name: Of the recording.
        ended_s: Seconds since its end.
        addresses: Of the blocks, in ascending order.
        n_bytes: Requested, of each.
        causes: Index in ``found`` of each; -1: of no finding.
        found: Suspects first.
        n_unlisted: Outstanding blocks of all targets whose addresses the recording leaves out.
    """

    name: str
    ended_s: float
    addresses: Words
    n_bytes: Words
    causes: Places
    found: tuple[Cause, ...]
    n_unlisted: int = 0


@dataclass(frozen=True, slots=True)
class TracedCause:
    """What became of the blocks of a cause.

    Attributes:
        cause: The finding.
        n_recorded: Blocks that were outstanding at the end of the trace.
        n_in_use: Of these, in use at the look.
        n_lost: Of these, lost: no pointer leads to them in any scan.
        lost_bytes: Requested bytes of these.
        held_by: Nearest holders of the others with their numbers of blocks, most first; at most three.
    """

    cause: Cause
    n_recorded: int
    n_in_use: int
    n_lost: int
    lost_bytes: int
    held_by: tuple[tuple[str, int], ...]

    @property
    def lost_pct(self) -> float:
        """Of the blocks in use, those that are lost, in percent."""
        return 100.0 * self.n_lost / self.n_in_use if self.n_in_use else 0.0


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
        report = build(recording, Selection())
        findings = [*report.suspects, *report.findings]
        number_of = {
            (site.key.slot, site.key.stack_key, site.key.thread_uid): number
            for number, finding in enumerate(findings)
            for site in (recording.sites[position] for position in finding.positions)
            if site.key.kind is Kind.HEAP
        }
        ended = recording.info.started + recording.elapsed_s
    addresses, stacks, n_bytes, slots, threads = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    chosen = np.flatnonzero(slots == slot)
    chosen = chosen[np.argsort(addresses[chosen], kind="stable")]
    places = zip(stacks[chosen].tolist(), threads[chosen].tolist(), strict=True)
    causes = np.array([number_of.get((slot, *place), -1) for place in places], np.int64)
    found = tuple(_cause(finding) for finding in findings)
    ago_s = max(0.0, time.time() - ended)
    return RecordedBlocks(recording.name, ago_s, addresses[chosen], n_bytes[chosen], causes, found, n_unlisted)


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
) -> list[TracedCause]:
    """What became of the blocks of each cause; suspects first, then by lost blocks.

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
    found = []
    for number, cause in enumerate(recorded.found):
        mine = recorded.causes == number
        if not mine.any():
            continue
        holders, counts = np.unique(owner[mine & is_there & ~is_lost & (owner != NONE)], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_MAX_HOLDERS]
        found.append(
            TracedCause(
                cause,
                n_recorded=int(mine.sum()),
                n_in_use=int((mine & is_there).sum()),
                n_lost=int((mine & is_lost).sum()),
                lost_bytes=int(recorded.n_bytes[mine & is_lost].sum()),
                held_by=tuple((names[int(holders[each])], int(counts[each])) for each in most),
            )
        )
    return sorted(found, key=lambda each: (not each.cause.is_suspect, -each.lost_bytes))
