"""Frozen data that every other part speaks: frames, stacks, sites, snapshots. Standard library only."""

from nativeleak.model.process import TargetEnd, TargetInfo, ThreadInfo
from nativeleak.model.site import N_SLICES, Kind, Owner, SiteKey, SiteTotals
from nativeleak.model.snapshot import COUNTERS, Snapshot, TraceInfo
from nativeleak.model.stack import Found, Frame, FrameKind, Stack

__all__ = [
    "COUNTERS",
    "N_SLICES",
    "Found",
    "Frame",
    "FrameKind",
    "Kind",
    "Owner",
    "SiteKey",
    "SiteTotals",
    "Snapshot",
    "Stack",
    "TargetEnd",
    "TargetInfo",
    "ThreadInfo",
    "TraceInfo",
]
