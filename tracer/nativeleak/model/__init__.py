"""Frozen data that all other packages share: frames, stacks, sites, snapshots. Standard library only."""

from nativeleak.model.census import HeapCensus, InUse
from nativeleak.model.coverage import Coverage, StackCoverage
from nativeleak.model.fate import BlockFate, Look, SiteFate, sum_of_fates
from nativeleak.model.memory import Limit, LimitKind, LimitUse, MemoryLine, MemoryReading, ProcessMemory
from nativeleak.model.process import Child, RuntimeInfo, TargetEnd, TargetInfo, ThreadInfo, Unwatched
from nativeleak.model.site import CERTAIN, N_SLICES, Kind, Owner, SiteKey, SiteTotals, Uncertainty, UnmapTotals
from nativeleak.model.snapshot import COUNTERS, BlockChunk, Level, Snapshot, TraceInfo, Window
from nativeleak.model.stack import Frame, FrameKind, FrameSource, Stack

__all__ = [
    "CERTAIN",
    "COUNTERS",
    "N_SLICES",
    "BlockChunk",
    "BlockFate",
    "Child",
    "Coverage",
    "Frame",
    "FrameKind",
    "FrameSource",
    "HeapCensus",
    "InUse",
    "Kind",
    "Level",
    "Limit",
    "LimitKind",
    "LimitUse",
    "Look",
    "MemoryLine",
    "MemoryReading",
    "Owner",
    "ProcessMemory",
    "RuntimeInfo",
    "SiteFate",
    "SiteKey",
    "SiteTotals",
    "Snapshot",
    "Stack",
    "StackCoverage",
    "TargetEnd",
    "TargetInfo",
    "ThreadInfo",
    "TraceInfo",
    "Uncertainty",
    "UnmapTotals",
    "Unwatched",
    "Window",
    "sum_of_fates",
]
