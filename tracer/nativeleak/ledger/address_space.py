"""The address space of one target: the last call that mapped each page, and the outstanding memory of every site.

Scope: events in, totals out; no I/O and no process id. Memory is counted by page state: accessible pages are
outstanding at the call that mapped them last, PROT_NONE pages are reserved there. So HotSpot's commit (a mapping inside
a reservation) and uncommit (a PROT_NONE mapping over it) cancel out without a rule of their own.

Caveats: brk is counted to the byte, everything else in whole pages. Memory from before the attach, and memory that only
``resync`` has seen, is in the map but at no site; if a mremap moves it, it belongs to that call like any other. If two
threads unmap the same pages at once, the first one counts. Lengths of mappings in a hugetlbfs file are rounded to
ordinary pages, because their page size is unknown here. A failed call may have done half its work: a mprotect that
meets a hole has changed the pages before it, a mremap with MREMAP_FIXED may have unmapped the new place. Only
``resync`` corrects these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from nativeleak.ledger.held_ranges import HeldRanges, MapPiece
from nativeleak.ledger.intervals import IntervalMap, stretched
from nativeleak.ledger.map_sites import (
    MapCall,
    MapSite,
    Resync,
    SiteId,
    SpacePiece,
    SpaceTotals,
    nobodys_call,
    sum_sites,
)
from nativeleak.ledger.mapping_events import (
    MREMAP_DONTUNMAP,
    PROT_ACCESS,
    BrkExit,
    Giver,
    MappingEvent,
    MapsEntry,
    MmapExit,
    MprotectExit,
    MremapEntry,
    MremapExit,
    MunmapEntry,
    RemovalExit,
    ShmatExit,
    ShmdtEntry,
    UnmapFailed,
    huge_page_bytes,
    is_accessible,
)
from nativeleak.ledger.unmaps import MAX_SITES, Unmaps
from nativeleak.model import Kind, Owner, SiteTotals

_HUGE_PAGE_BYTES: Final = 2 << 20
_OUTSTANDING: Final = (Owner.PROGRAM, Owner.RUNTIME)
_SYSV: Final = "/SYSV"
"""Start of the path of every System V segment. Source: ``newseg`` in ipc/shm.c."""

Resident = Callable[[int, int], int] | Mapping[SiteId, int]


class AddressSpace:
    """The interval map of one target, fed with its events in order.

    It is larger than other classes because it is one idea: each method changes or reads the same intervals.

    Args:
        page_bytes: Page size of the machine.
        huge_page_bytes: Page size of MAP_HUGETLB without a size (``Hugepagesize`` in /proc/meminfo).
        max_unmap_sites: Maximum rows of ``unmaps``.

    Attributes:
        unmaps: Callers that unmapped address space.
    """

    def __init__(
        self, page_bytes: int = 4096, huge_page_bytes: int = _HUGE_PAGE_BYTES, max_unmap_sites: int = MAX_SITES
    ) -> None:
        self._page = page_bytes
        self._huge_page = huge_page_bytes
        self._max_unmap_sites = max_unmap_sites
        self._owner_of_stack: dict[int, Owner] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            MmapExit: self._on_mmap,
            MunmapEntry: self._on_munmap,
            MremapEntry: self._on_mremap_entry,
            UnmapFailed: lambda event: self._restore(event.tid),
            RemovalExit: self._on_removal_exit,
            MremapExit: self._on_mremap,
            MprotectExit: self._on_mprotect,
            BrkExit: self._on_brk,
            ShmatExit: self._on_shmat,
            ShmdtEntry: self._on_shmdt,
        }
        self.forget_all()

    def forget_all(self) -> None:
        """Start again after an exec, which leaves nothing of the old address space. Owners of stacks are kept."""
        self._map: IntervalMap[MapCall] = IntervalMap()
        self._sites: dict[SiteId, MapSite] = {}
        self._held = HeldRanges()
        self.unmaps = Unmaps(self._max_unmap_sites)
        self._segments: dict[int, tuple[int, MapCall]] = {}  # System V: start -> (end, the call)
        self._break: int | None = None
        self._before = nobodys_call()
        self._unknown = nobodys_call()

    def load_baseline(self, entries: Iterable[MapsEntry], break_start: int = 0) -> None:
        """Enter all mappings from before the attach; call it once, before the first event.

        Args:
            entries: The whole of /proc/PID/maps.
            break_start: Start of the program break, 0 if unknown; needed while there is no heap.
        """
        entries = list(entries)
        self._break = break_start or None
        self._find_break(entries)
        for entry in entries:
            self._enter(entry, entry.start, entry.end, self._before)

    def apply(self, event: MappingEvent) -> None:
        """Apply one event."""
        self._handlers[type(event)](event)

    def reclassify(self, site_id: SiteId, owner: Owner) -> None:
        """Set the owner of a site, once its stack is known."""
        if site_id in self._sites:
            self._sites[site_id].owner = owner

    def reclassify_stack(self, stack_key: int, owner: Owner) -> None:
        """Set the owner of all sites of a stack, also of future ones; an allocator's memory stays the allocator's."""
        self._owner_of_stack[stack_key] = owner
        for site_id, site in self._sites.items():
            if site_id.stack_key == stack_key and site_id.born is not Owner.ALLOCATOR:
                site.owner = owner

    def forget_thread(self, tid: int) -> None:
        """Note that a thread has ended: its last removal can no longer fail."""
        self._settle(tid)

    # What is read

    @property
    def resync_unknown_bytes(self) -> int:
        """Mapped bytes that only a ``resync`` has seen, which belong to no site."""
        site = self._unknown.site
        return site.allocated_bytes - site.freed_bytes + site.reserved_bytes

    @property
    def n_pieces(self) -> int:
        """Pieces in the map, which take about 250 bytes each."""
        return len(self._map)

    def pieces(self) -> Iterator[SpacePiece]:
        """The whole map in order of address."""
        for start, end, call, accessible in self._map:
            site_id = call.site.site_id if call.site.owner else None
            yield SpacePiece(start, end, site_id, accessible, call.file_backed)

    def outstanding_ranges(self) -> Iterator[tuple[int, int, SiteId]]:
        """Outstanding memory of program and runtime, ``(start, end, site)``; neighbours of a site are merged."""
        start = end = 0
        site = self._before.site
        for p_start, p_end, call, accessible in self._map:
            if not accessible or call.site.owner not in _OUTSTANDING:
                continue
            if p_start == end and call.site is site:
                end = p_end
                continue
            if end:
                yield start, end, site.site_id
            start, end, site = p_start, p_end, call.site
        if end:
            yield start, end, site.site_id

    def owned_ranges(self) -> Iterator[tuple[int, int, Owner]]:
        """Accessible memory that was mapped in the window, ``(start, end, owner)``, in order of address."""
        for start, end, call, accessible in self._map:
            if accessible and call.site.owner is not None:
                yield start, end, call.site.owner

    def site_totals(self, slot: int, now_s: float, resident: Resident | None = None) -> list[SiteTotals]:
        """Totals of every site at which anything was ever mapped or reserved.

        Args:
            slot: The target's, for the keys.
            now_s: Seconds since the trace began.
            resident: Resident bytes, by range or by site; called only for ranges of ``outstanding_ranges``.

        Returns:
            One per site. A thread and stack that mapped both inside and outside an allocator give two, with the same
            key and different owners.
        """
        oldest: dict[MapSite, float] = {}
        for _, _, call, accessible in self._map:
            if accessible and call.time_s < oldest.get(call.site, float("inf")):
                oldest[call.site] = call.time_s
        resident_bytes = self._resident_by_site(resident)
        totals = []
        for site_id, site in self._sites.items():
            age_s = now_s - oldest[site] if site in oldest else None
            in_memory = None if resident is None or site.owner is Owner.ALLOCATOR else resident_bytes.get(site_id, 0)
            totals.append(site.totals(slot, age_s, in_memory))
        return totals

    def totals(self, kind: Kind, owner: Owner) -> SpaceTotals:
        """Sums over the sites of a kind and owner; no site has ``reserved_bytes`` from before the window."""
        return sum_sites(site for site_id, site in self._sites.items() if site_id.kind is kind and site.owner is owner)

    def retire(self, slot: int, thread_uids: Collection[int]) -> list[SiteTotals]:
        """Drop sites of ended threads that have nothing mapped; returns the last totals of each."""
        held = {call.site for call in self._held.calls()}
        gone = [
            site
            for site_id, site in self._sites.items()
            if site_id.thread_uid in thread_uids and site.is_empty() and site not in held
        ]
        for site in gone:
            del self._sites[site.site_id]
        return [site.totals(slot) for site in gone]

    def resync(self, entries: Iterable[MapsEntry]) -> Resync:
        """Correct the map from /proc/PID/maps, after events were lost.

        If another mapping replaced one at the same place unseen, the old owner stays. The entries must have been read
        after the last applied event; later events may repeat what the entries show.

        Args:
            entries: The whole of /proc/PID/maps.
        """
        entries = list(entries)
        self._held.clear()
        self._find_break(entries)
        added = removed = n_corrections = 0
        cursor = 0
        for entry in entries:
            end = entry.end if entry.path != "[heap]" or self._break is None else min(entry.end, self._break)
            removed += self._free(cursor, entry.start)
            n_corrections += self._protect(entry.start, end, is_accessible(entry))
            for start, stop in self._map.gaps(entry.start, end):
                self._enter(entry, start, stop, self._unknown)
                added += stop - start
            cursor = end
        removed += self._free(cursor, self._map.end)
        return Resync(added, removed, n_corrections)

    # Events

    def _on_mmap(self, event: MmapExit) -> None:
        self._settle(event.tid)
        unit = huge_page_bytes(event.flags, self._huge_page) or self._page
        end = event.addr + -(-event.length // unit) * unit
        site = self._site(Kind.MAP, event.thread_uid, event.stack_key, _born(event.in_allocator), "mmap")
        call = MapCall(site, event.time_s, file_backed=event.file_backed)
        self._place(event.addr, end, [(event.addr, end, call, event.prot & PROT_ACCESS != 0)])

    def _on_munmap(self, event: MunmapEntry) -> None:
        self._settle(event.tid)
        self._hold(event.tid, event.addr, self._end(event.addr, event.length))
        if event.giver is not None:
            self.unmaps.book(event.tid, "munmap", event.giver, self._held.taken_by(event.tid))

    def _on_mremap_entry(self, event: MremapEntry) -> None:
        self._settle(event.tid)
        self._hold(event.tid, event.addr, self._end(event.addr, event.length))

    def _on_removal_exit(self, event: RemovalExit) -> None:
        if event.tid in self._held:  # else the entry event was lost
            self.unmaps.book(event.tid, event.function, event.giver, self._held.taken_by(event.tid))
        self._settle(event.tid)

    def _on_mremap(self, event: MremapExit) -> None:
        """Give the new range the protection and, outside an allocator, the owner of the old one.

        Only one mapping can grow, but several can be cut at once, and since Linux 6.17 moved. Holes between them stay
        holes, and what lies at the new place opposite to a hole stays there. Source: ``remap_move`` in mm/mremap.c.
        """
        old, new = event.old_addr, event.new_addr
        end = self._end(new, event.new_length)
        if event.old_length == 0:
            layout = self._map.overlapping(old, old + self._page)
        else:
            if event.tid not in self._held:  # the entry event was lost
                self._hold(event.tid, old, self._end(old, event.old_length))
            layout = self._held.taken_by(event.tid)
        origin = layout[0][2] if layout else self._unknown
        born = Owner.ALLOCATOR if event.in_allocator else origin.site.owner or Owner.PROGRAM
        site = self._site(Kind.MAP, event.thread_uid, event.stack_key, born, "mremap")
        call = MapCall(site, event.time_s, file_backed=origin.file_backed)
        by = new - old
        moved = [
            (start + by, min(stop + by, end), call, accessible)
            for start, stop, _, accessible in layout
            if start + by < end
        ]
        if not layout or event.new_length > event.old_length:
            moved = stretched(moved, new, end, call)
        if event.flags & MREMAP_DONTUNMAP:
            self._restore(event.tid)
        else:
            self._book_shrinking(event, layout)
            self._settle(event.tid)
            if event.old_length and old in self._segments:
                del self._segments[old]
                self._segments[new] = end, call
        for piece in moved:
            self._place(piece[0], piece[1], [piece])

    def _book_shrinking(self, event: MremapExit, layout: Sequence[MapPiece]) -> None:
        """Book the range that a mremap cuts off as unmapped; a range that it moves is not."""
        cut = self._end(event.old_addr, event.new_length)
        if cut >= self._end(event.old_addr, event.old_length):
            return
        giver = Giver(event.thread_uid, event.stack_key, event.in_allocator)
        tail = [(max(start, cut), end, call, accessible) for start, end, call, accessible in layout if end > cut]
        self.unmaps.book(event.tid, "mremap", giver, tail)

    def _on_mprotect(self, event: MprotectExit) -> None:
        self._settle(event.tid)
        self._protect(event.addr, self._end(event.addr, event.length), event.prot & PROT_ACCESS != 0)

    def _on_brk(self, event: BrkExit) -> None:
        self._settle(event.tid)
        old, new = self._break, event.new_break
        if old is not None and old - self._page < event.old_break < old:
            old = event.old_break  # known to the page until now
        self._break = new
        if old is None or new == old:
            return
        if new < old:
            self._free(new, self._end(old, 0))
            return
        site = self._site(Kind.BRK, event.thread_uid, event.stack_key, _born(event.in_allocator), "brk")
        self._place(old, new, [(old, new, MapCall(site, event.time_s), True)])

    def _on_shmat(self, event: ShmatExit) -> None:
        self._settle(event.tid)
        end = self._end(event.addr, event.length)
        site = self._site(Kind.MAP, event.thread_uid, event.stack_key, _born(event.in_allocator), "shmat")
        call = MapCall(site, event.time_s)
        self._segments[event.addr] = end, call
        self._place(event.addr, end, [(event.addr, end, call, True)])

    def _on_shmdt(self, event: ShmdtEntry) -> None:
        """Unmap a segment; memory mapped over a part of it stays, as in the kernel."""
        self._settle(event.tid)
        end, segment = self._segments.get(event.addr, (0, self._unknown))
        pieces = [piece for piece in self._map.overlapping(event.addr, end) if piece[2] is segment]
        for start, stop, _, _ in pieces:
            self._free(start, stop)
        self._held.hold(event.tid, pieces)

    # The map and held ranges

    def _end(self, addr: int, length: int) -> int:
        return -(-(addr + length) // self._page) * self._page

    def _site(self, kind: Kind, thread_uid: int, stack_key: int, born: Owner, function: str) -> MapSite:
        site_id = SiteId(kind, thread_uid, stack_key, born)
        site = self._sites.get(site_id)
        if site is None:
            owner = born if born is Owner.ALLOCATOR else self._owner_of_stack.get(stack_key, born)
            site = self._sites[site_id] = MapSite(site_id, owner)
        if function not in site.functions:
            site.functions += (function,)
        return site

    def _take(self, start: int, end: int, new: Sequence[MapPiece] = ()) -> list[MapPiece]:
        """Unmap a range and put new pieces there; returns the unmapped pieces."""
        pieces = self._map.splice(start, end, new)
        for p_start, p_end, call, accessible in pieces:
            call.remove(p_end - p_start, accessible)
        return pieces

    def _free(self, start: int, end: int) -> int:
        """Unmap a range for good; returns the bytes that were mapped in it."""
        return sum(p_end - p_start for p_start, p_end, _, _ in self._take(start, end))

    def _place(self, start: int, end: int, pieces: Sequence[MapPiece]) -> None:
        """Map a range: earlier pieces there are freed, and held pieces there are lost for good."""
        self._held.supersede(start, end)
        self._take(start, end, pieces)
        for p_start, p_end, call, accessible in pieces:
            call.add(p_end - p_start, accessible)

    def _protect(self, start: int, end: int, accessible: bool) -> int:
        """Give all of a range the same access; returns the pieces that had another."""
        pieces = self._map.overlapping(start, end)
        wrong = [piece for piece in pieces if piece[3] is not accessible]
        if wrong:
            self._map.splice(start, end, [(p_start, p_end, call, accessible) for p_start, p_end, call, _ in pieces])
        for p_start, p_end, call, _ in wrong:
            call.remove(p_end - p_start, not accessible)
            call.add(p_end - p_start, accessible)
        return len(wrong)

    def _hold(self, tid: int, start: int, end: int) -> None:
        """Unmap a range, but keep the pieces until it is known whether the call succeeded."""
        self._held.hold(tid, self._take(start, end))

    def _settle(self, tid: int) -> None:
        """Drop the held pieces of a thread, because its last removal has succeeded."""
        if tid in self._held:
            self._held.release(tid)
        self.unmaps.settle(tid)

    def _restore(self, tid: int) -> None:
        """Restore what no mapping has replaced, after a thread's last removal failed or kept the old range."""
        self.unmaps.take_back(tid)
        for piece in self._held.release(tid):
            start, end, call, accessible = piece
            self._map.splice(start, end, [piece])
            call.restore(end - start, accessible)

    # /proc/PID/maps

    def _enter(self, entry: MapsEntry, start: int, end: int, origin: MapCall) -> None:
        """Map a range that no event reported."""
        path = entry.path or ""
        call = origin
        if path.startswith(_SYSV):
            call = MapCall(origin.site, origin.time_s)
            self._segments.setdefault(start, (end, call))
        elif path.startswith("/"):
            call = MapCall(origin.site, origin.time_s, file_backed=True)
        self._place(start, end, [(start, end, call, is_accessible(entry))])

    def _find_break(self, entries: Iterable[MapsEntry]) -> None:
        """Set the program break to the end of the heap; its known place within the last page is kept."""
        end = max((entry.end for entry in entries if entry.path == "[heap]"), default=None)
        if end is not None and (self._break is None or not end - self._page < self._break <= end):
            self._break = end

    def _resident_by_site(self, resident: Resident | None) -> Mapping[SiteId, int]:
        if resident is None or isinstance(resident, Mapping):
            return resident or {}
        sums: dict[SiteId, int] = {}
        for start, end, site_id in self.outstanding_ranges():
            sums[site_id] = sums.get(site_id, 0) + resident(start, end)
        return sums


def _born(in_allocator: bool) -> Owner:
    return Owner.ALLOCATOR if in_allocator else Owner.PROGRAM
