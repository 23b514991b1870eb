"""Sites of mapped memory, the calls made at them, and the sums of both.

Scope: only accounting; the interval map knows the addresses. A call counts as outstanding
while one accessible byte of it is left, so counts change when its first byte comes or its last byte goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nativeleak.model import Kind, Owner, SiteKey, SiteTotals


class SiteId(NamedTuple):
    """Identity of a site within one address space.

    Attributes:
        born: Owner according to the event. Part of the identity, because stack 0 (stack map full) and stacks of one
            frame can stand for calls of the program and of an allocator.
    """

    kind: Kind
    thread_uid: int
    stack_key: int
    born: Owner

    def site_key(self, slot: int) -> SiteKey:
        """The key within the whole trace; two sites that differ in ``born`` alone share it."""
        return SiteKey(self.kind, slot, self.thread_uid, self.stack_key)


class MapSite:
    """Sums of one site, kept up to date by its calls. Sizes in bytes.

    Args:
        site_id: Its identity.
        owner: Owner of its mappings, as far as known; None for memory from before the window, which has no owner.
    """

    __slots__ = (
        "allocated_bytes",
        "allocated_count",
        "file_bytes",
        "freed_bytes",
        "freed_count",
        "functions",
        "owner",
        "reserved_bytes",
        "site_id",
    )

    def __init__(self, site_id: SiteId, owner: Owner | None) -> None:
        self.site_id = site_id
        self.owner = owner
        self.functions: tuple[str, ...] = ()
        self.allocated_bytes = 0
        self.allocated_count = 0
        self.freed_bytes = 0
        self.freed_count = 0
        self.reserved_bytes = 0
        self.file_bytes = 0

    def is_empty(self) -> bool:
        """Whether none of it is mapped any more."""
        return self.allocated_bytes == self.freed_bytes and not self.reserved_bytes

    def totals(self, slot: int, oldest_s: float | None = None, resident_bytes: int | None = None) -> SiteTotals:
        """The sums as ``SiteTotals``."""
        return SiteTotals(
            key=self.site_id.site_key(slot),
            allocated_bytes=self.allocated_bytes,
            allocated_count=self.allocated_count,
            freed_bytes=self.freed_bytes,
            freed_count=self.freed_count,
            resident_bytes=resident_bytes,
            reserved_bytes=self.reserved_bytes,
            oldest_s=oldest_s,
            owner=self.owner or Owner.PROGRAM,
            functions=self.functions,
        )


class MapCall:
    """One successful call, or one origin of memory that no call of the window made.

    Args:
        site: Site of the call.
        time_s: Seconds since the trace began.
        file_backed: Whether it mapped a file.
    """

    __slots__ = ("file_backed", "live_bytes", "site", "time_s")

    def __init__(self, site: MapSite, time_s: float, *, file_backed: bool = False) -> None:
        self.site = site
        self.time_s = time_s
        self.file_backed = file_backed
        self.live_bytes = 0

    def add(self, n_bytes: int, accessible: bool) -> None:
        """Add pages to this call."""
        site = self.site
        if not accessible:
            site.reserved_bytes += n_bytes
            return
        if not self.live_bytes:
            site.allocated_count += 1
        self.live_bytes += n_bytes
        site.allocated_bytes += n_bytes
        if self.file_backed:
            site.file_bytes += n_bytes

    def remove(self, n_bytes: int, accessible: bool) -> None:
        """Remove pages from this call."""
        site = self.site
        if not accessible:
            site.reserved_bytes -= n_bytes
            return
        self.live_bytes -= n_bytes
        if not self.live_bytes:
            site.freed_count += 1
        site.freed_bytes += n_bytes
        if self.file_backed:
            site.file_bytes -= n_bytes

    def restore(self, n_bytes: int, accessible: bool) -> None:
        """Undo a ``remove``: the pages stayed, so they were neither freed nor allocated again."""
        site = self.site
        if not accessible:
            site.reserved_bytes += n_bytes
            return
        if not self.live_bytes:
            site.freed_count -= 1
        self.live_bytes += n_bytes
        site.freed_bytes -= n_bytes
        if self.file_backed:
            site.file_bytes += n_bytes


def nobodys_call() -> MapCall:
    """Origin of memory that no call of the window mapped; no list has its site."""
    return MapCall(MapSite(SiteId(Kind.MAP, 0, 0, Owner.PROGRAM), None), 0.0)


@dataclass(frozen=True, slots=True)
class SpaceTotals:
    """Sums over sites, bytes and calls; ``file_bytes`` is the part of the outstanding bytes that maps files."""

    allocated_bytes: int = 0
    allocated_count: int = 0
    freed_bytes: int = 0
    freed_count: int = 0
    reserved_bytes: int = 0
    file_bytes: int = 0

    @property
    def outstanding_bytes(self) -> int:
        """Accessible bytes mapped in the window and still there."""
        return self.allocated_bytes - self.freed_bytes

    @property
    def outstanding_count(self) -> int:
        """Calls of the window with an accessible byte left."""
        return self.allocated_count - self.freed_count


class SpacePiece(NamedTuple):
    """One range of the map, for callers; ``site_id`` None means memory that no call of the window mapped."""

    start: int
    end: int
    site_id: SiteId | None
    accessible: bool
    file_backed: bool


@dataclass(frozen=True, slots=True)
class Resync:
    """Changes by a ``resync``: bytes found mapped, bytes found unmapped, pieces with the wrong access."""

    added_bytes: int
    removed_bytes: int
    n_corrections: int


def sum_sites(sites: Iterable[MapSite]) -> SpaceTotals:
    """The sums of some sites added up."""
    sums = [0] * 6
    for site in sites:
        sums[0] += site.allocated_bytes
        sums[1] += site.allocated_count
        sums[2] += site.freed_bytes
        sums[3] += site.freed_count
        sums[4] += site.reserved_bytes
        sums[5] += site.file_bytes
    return SpaceTotals(*sums)
