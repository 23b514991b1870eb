"""Listings of a process's mappings: pmap of every flavour, /proc/PID/smaps and maps, the JVM's ``System.map``.

Scope: text in, listings out. Rows decide, not the first line: they are taken in any order, with the process named
before, among or behind them, or nowhere. Columns go by the names in the head line; without one, by how many there are.

Source: procps 3.2 to 4.0 ``one_proc`` in pmap.c and its patches in SLES and openSUSE; BusyBox procps/pmap.c; toybox
toys/other/pmap.c; ``show_smap`` in fs/proc/task_mmu.c; src/hotspot/os/linux/memMapPrinter_linux.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from nativeleak.engines.pmap.dates import parse_date_line
from nativeleak.engines.pmap.smaps import MAX_LINE, MAX_MAPPED, Mapping
from nativeleak.units import excerpt

PROCESS: Final = re.compile(r"\s*(\d{1,10}):(?: +(.*)| *)")
_NUMBERS: Final = r"((?:(?:\d{1,15}[Kk]?|-)\s+)*)"
_MODE: Final = r"([r-][w-][x-][pPsS-][R-]?)"
ROW: Final = re.compile(rf"\s*([0-9a-f]{{1,16}})\s+{_NUMBERS}{_MODE}(?=\s|$)\s*(.*)")
_OFFSET: Final = re.compile(r"([0-9a-f]{8,16})\s+([0-9a-f]{2,3}:[0-9a-f]{2,5})(?:\s+(.*)|$)")
_INODE: Final = re.compile(r"(\d{1,20})\s*(.*)")
_PROC: Final = re.compile(
    r"\s*([0-9a-f]{1,16})-([0-9a-f]{1,16})\s+([r-][w-][x-][ps])\s+([0-9a-f]{1,16})\s+([0-9a-f:]{1,12})\s+(\d{1,20})"
    r"(?:\s+(.*))?"
)
_SYSTEM_MAP: Final = re.compile(
    r"\s*0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})\s+(\d{1,18})\s+([r-][w-][x-][ps])\s+(\d{1,18})\s+(\d{1,18})\s+\S+"
    r"\s+(\S+)\s+(\S+)\s+(.*)"
)
_FIELD: Final = re.compile(r"\s*([A-Z]\w{1,30}): +(\d{1,15}) kB\s*")
_OTHER_FIELD: Final = re.compile(r"\s*(?:VmFlags:|THPeligible:|ProtectionKey:|[A-Z]\w{1,30}: +\d+\s*$)")
_TOTAL: Final = re.compile(r"\s*[^\W\d]\w{0,40}:?\s+(?:[kK]B?\s+)?((?:\d{1,15}[Kk]?|-)(?:\s+(?:\d{1,15}[Kk]?|-))*)\s*")
_TOTAL_D: Final = re.compile(r"\s*mapped:\s+(\d{1,15})K")
_TOTAL_X: Final = re.compile(r"\s*((?:\d{1,15}\s+)+)KB\s*")
_PASSED: Final = re.compile(
    r"\s*(?:$|[-=\s]+$|```|~~~|[$#>]\s|\S+[@:]\S*[$#] |\(?\.\.\.|\u2026)"
    r"|\s*(?:Number of mappings|rss|committed|shared|swapped out|using thp|hugetlb): \d"
)
_SYSTEM_MAP_TOTAL: Final = re.compile(r"\s*vsize: (\d{1,18}) \(.*")
_LEGEND: Final = re.compile(r"\s*(?:Process memory map|Memory mappings):\s*")
_LEGEND_LINE: Final = re.compile(r"\s*[\w ,]{1,40}: .*|from\s+to\s.*")
_FLAG: Final = re.compile(r"(?:[a-z?]{2}\s+)+(?=\S|$)")
_NAMES: Final = {"": "", "[ anon ]": "", "[anon]": "", "[ stack ]": "[stack]"}
_DELETED: Final = " (deleted)"
_ADDRESSES: Final = 1 << 64
_PAGE: Final = 4096
_SIZE_NAMES: Final = ("kbytes", "size")


@dataclass(slots=True)
class Listing:
    """What one run of pmap printed, or one reading of smaps; sizes in bytes.

    Attributes:
        pid: 0 where it is not named.
        mappings: In order of address, without overlaps.
        time_s: Seconds since 1970 by a line above it; None for none.
        source: ``pmap``, ``smaps``, ``maps``, ``System.map`` or ``smaps_rollup``.
        has_sizes: False where all sizes are printed as 0 (procps 3.2.8): they are at least what is resident.
        total_kib: Mapped in all by the listing's own last line; None for none.
        owners: By address, what the JVM says a mapping is for.
    """

    pid: int = 0
    command: str = ""
    mappings: list[Mapping] = field(default_factory=list)
    time_s: float | None = None
    source: str = "pmap"
    has_sizes: bool = True
    total_kib: int | None = None
    owners: dict[int, str] = field(default_factory=dict)

    @property
    def mapped_bytes(self) -> int:
        """Sum of all sizes."""
        return sum(mapping.end - mapping.start for mapping in self.mappings)

    @property
    def is_complete(self) -> bool | None:
        """Whether all rows are there; None where nothing says."""
        if self.source not in ("pmap", "System.map"):
            return True
        if self.total_kib is None:
            return None
        return not self.has_sizes or self.mapped_bytes >> 10 == self.total_kib


def parse_listings(lines: Iterable[str]) -> ListingReader:
    """Read all lines; the listings are in ``listings`` of what comes back."""
    reader = ListingReader()
    for line in lines:
        reader.feed(line)
    reader.finish()
    return reader


def has_rows(lines: Iterable[str]) -> bool:
    """Whether there is a row of a listing of any kind among some lines."""
    return any(
        (ROW.fullmatch(line) and _is_row(line)) or _PROC.fullmatch(line) or _SYSTEM_MAP.fullmatch(line)
        for line in (line.rstrip("\r\n") for line in filter(str.strip, lines))
        if len(line) <= MAX_LINE
    )


def _is_row(line: str) -> bool:
    """A row has an address of 8 digits, or sizes, or what pmap -X prints behind the mode."""
    row = ROW.fullmatch(line)
    return row is not None and (bool(row[2].strip()) or _OFFSET.match(row[4]) is not None)


class ListingReader:
    """Reads lines into listings.

    Attributes:
        listings: Those that are whole, in the order of the text.
        n_unread: Lines that made no sense.
        first_unread: The first of them.
    """

    def __init__(self) -> None:
        self.listings: list[Listing] = []
        self.n_unread = 0
        self.first_unread = ""
        self._now = Listing()
        self._is_closed = False
        self._seen: dict[int, str] = {}
        self._columns: list[str] | None = None
        self._room = MAX_MAPPED
        self._fields: dict[str, int] = {}
        self._head: tuple[int, int, str, str] | None = None
        self._flags = ""
        self._time_s: float | None = None
        self._in_legend = False

    def feed(self, line: str) -> None:
        """Take a line."""
        line = line.rstrip("\r\n")
        if len(line) > MAX_LINE:
            self._miss(line)
            return
        if self._head is not None and self._take_field(line):
            return
        found = _PROC.fullmatch(line)
        if found:
            self._on_proc(found)
            return
        system_map = _SYSTEM_MAP.fullmatch(line)
        row = ROW.fullmatch(line)
        if system_map:
            self._on_system_map(system_map)
        elif row and _is_row(line):
            self._on_row(line, row)
        else:
            self._on_other(line)

    def finish(self) -> None:
        """No more lines come."""
        self._end_entry()
        self._end_listing()

    # What is no row

    def _on_other(self, line: str) -> None:
        process, total, total_x = PROCESS.fullmatch(line), _TOTAL.fullmatch(line), _TOTAL_X.fullmatch(line)
        mapped = _TOTAL_D.match(line)
        if system_total := _SYSTEM_MAP_TOTAL.fullmatch(line):
            self._on_total(int(system_total[1]) >> 10)
        elif _LEGEND.fullmatch(line):
            self._in_legend = True
        elif self._in_legend and not self._seen and _LEGEND_LINE.fullmatch(line):
            return
        elif process:
            if self._now.pid:
                self._end_listing()
            self._begin_if_closed()
            self._now.pid, self._now.command = int(process[1]), (process[2] or "").strip()
        elif self._is_head(line):
            self._begin_if_closed()
        elif mapped or total_x or total:
            self._on_total(int(mapped[1]) if mapped else _first_number((total_x or total)[1]))  # type: ignore[index]
        elif (time_s := parse_date_line(line)) is not None:
            if self._seen:
                self._end_listing()
            self._time_s = time_s
        elif not _PASSED.match(line):
            self._miss(line)

    def _is_head(self, line: str) -> bool:
        words = line.lower().split()
        if not words or words[0] not in ("address", "start", "adresse", "from"):
            return False
        self._columns = words[1:]
        return True

    def _on_total(self, kib: int | None) -> None:
        if self._now.total_kib is not None:
            self._end_listing()
        self._begin_if_closed()
        self._now.total_kib = kib
        # Whatever follows belongs to the next listing, unless it was sorted: then addresses tell.
        self._is_closed = bool(self._seen) and kib is not None and self._sum_kib() >= kib

    def _sum_kib(self) -> int:
        return self._now.mapped_bytes >> 10

    def _miss(self, line: str) -> None:
        self.n_unread += 1
        self.first_unread = self.first_unread or excerpt(line)

    # Rows

    def _on_row(self, line: str, row: re.Match[str]) -> None:
        start, numbers, mode, rest = int(row[1], 16), row[2].split(), row[3], row[4]
        if not self._claim(start, line):
            return
        sizes = self._by_name(numbers)
        if not numbers:  # pmap -X: address, mode, offset, device, inode, then the sizes
            sizes, rest = self._behind_inode(rest)
        elif (offset := _OFFSET.fullmatch(rest)) and (self._columns is None or "offset" in self._columns):
            rest = offset[3] or ""
        n_bytes = sizes.get("size", 0)
        rss, pss, swap = (sizes.get(name, -1) for name in ("rss", "pss", "swap"))
        self._add(Mapping(start, start + n_bytes, _perms(mode), _path(rest), rss, "", pss, swap))

    def _by_name(self, numbers: list[str]) -> dict[str, int]:
        """Sizes in bytes by column; of a column of dashes nothing."""
        names = self._columns
        if names is not None:
            mode = next((i for i, name in enumerate(names) if name in ("mode", "perm", "modus")), len(names))
            names = names[:mode]
        if names is None or len(names) != len(numbers) or not any(name in _SIZE_NAMES for name in names):
            names = _columns_of(numbers)
        return _sizes(names, numbers)

    def _behind_inode(self, rest: str) -> tuple[dict[str, int], str]:
        offset = _OFFSET.fullmatch(rest)
        inode = _INODE.fullmatch(offset[3] or "") if offset else None
        if inode is None:
            return {}, rest
        numbers: list[str] = []
        tail = inode[2]
        names = (self._columns or [])[4:]
        most = sum(name not in ("mapping", "vmflags") for name in names) or 64
        while len(numbers) < most and (match := re.match(r"\s*(\d{1,15})(?=\s|$)", tail)):
            numbers.append(match[1])
            tail = tail[match.end() :]
        if "vmflags" in names:
            tail = _FLAG.sub("", tail.strip() + " ", count=1)
        if not names:
            names = ["size", "rss", "pss"]
        return _sizes(names[: len(numbers)], numbers[: len(names)]), tail

    def _on_system_map(self, found: re.Match[str]) -> None:
        start, end = int(found[1], 16), int(found[2], 16)
        if not self._claim(start, found[0]):
            return
        self._now.source = "System.map"
        if found[8] != "-":
            self._now.owners[start] = found[8]
        path = found[9].strip()
        self._add(Mapping(start, end, found[4], _path("" if path == "-" else path), int(found[5])))

    def _on_proc(self, found: re.Match[str]) -> None:
        self._end_entry()
        start, end, perms, _, _, _, path = found.groups()
        if not self._claim(int(start, 16), found[0]):
            return
        path = (path or "").strip().removesuffix(_DELETED)
        self._now.source = "smaps_rollup" if path == "[rollup]" else "maps"
        self._head = int(start, 16), int(end, 16), perms, path
        self._fields, self._flags = {}, ""

    def _take_field(self, line: str) -> bool:
        found = _FIELD.fullmatch(line)
        if found:
            self._fields.setdefault(found[1], int(found[2]) << 10)
            return True
        if line.lstrip().startswith("VmFlags:"):
            self._flags = line.lstrip()[len("VmFlags:") : 512].strip()
            return True
        return _OTHER_FIELD.match(line) is not None

    def _end_entry(self) -> None:
        """The mapping whose fields came last is whole."""
        if self._head is None:
            return
        head, fields, self._head = self._head, self._fields, None
        if fields and self._now.source == "maps":
            self._now.source = "smaps"
        rss, pss, swap = (fields.get(name, -1) for name in ("Rss", "Pss", "Swap"))
        self._add(Mapping(*head, rss, self._flags, pss, swap))

    # Listings

    def _claim(self, start: int, line: str) -> bool:
        """Make room for a row: in a new listing where the last has ended, or has this address; False for a copy."""
        if self._seen.get(start) == line and not self._is_closed and next(reversed(self._seen)) == start:
            return False  # procps 3.3.10 prints rows twice
        if start in self._seen:
            self._end_listing()
        self._begin_if_closed()
        self._seen[start] = line
        return True

    def _add(self, mapping: Mapping) -> None:
        n_bytes = mapping.end - mapping.start
        if self._now.source == "smaps_rollup":
            self._now.mappings.append(mapping)
        elif 0 <= n_bytes <= self._room and mapping.end <= _ADDRESSES:
            self._room -= n_bytes
            self._now.mappings.append(mapping)
        else:
            self._miss(f"{mapping.start:x} {n_bytes >> 10}")

    def _begin_if_closed(self) -> None:
        if self._is_closed:
            self._end_listing()

    def _end_listing(self) -> None:
        self._end_entry()
        listing = self._now
        if listing.mappings:
            listing.time_s, self._time_s = self._time_s, None
            if listing.source != "smaps_rollup":
                listing.has_sizes = any(m.end > m.start for m in listing.mappings)
                listing.mappings = _in_order(listing.mappings, has_sizes=listing.has_sizes)
            self.listings.append(listing)
        elif listing.pid and self.listings and not self.listings[-1].pid:
            # Sorted: the line that names the process stands behind the total.
            self.listings[-1].pid, self.listings[-1].command = listing.pid, listing.command
        self._now, self._is_closed, self._room = Listing(), False, MAX_MAPPED
        self._seen = {}


def _columns_of(numbers: list[str]) -> list[str]:
    """The meaning of a row's sizes, from their number."""
    match len(numbers):
        case 4 if "-" not in numbers:
            return ["size", "pss", "dirty", "swap"]  # BusyBox and toybox
        case 5:
            return ["size", "rss", "pss", "dirty", "swap"]  # SLES
        case _:
            return ["size", "rss", "dirty", "locked", "", ""][: len(numbers)]


def _sizes(names: list[str], numbers: list[str]) -> dict[str, int]:
    found = {}
    for name, number in zip(names, numbers, strict=False):
        digits = number.rstrip("Kk")
        if digits.isdigit():
            found["size" if name in _SIZE_NAMES else name] = int(digits) << 10
    return found


def _first_number(text: str) -> int | None:
    word = text.split()[0].rstrip("Kk")
    return int(word) if word.isdigit() else None


def _in_order(mappings: list[Mapping], *, has_sizes: bool) -> list[Mapping]:
    """By address; where two overlap, the lower one ends: it changed while it was listed."""
    mappings = sorted(mappings, key=lambda mapping: mapping.start)
    found: list[Mapping] = []
    for i, mapping in enumerate(mappings):
        room = mappings[i + 1].start - mapping.start if i + 1 < len(mappings) else _ADDRESSES - mapping.start
        if not has_sizes:
            mapping = mapping._replace(end=mapping.start + min(room, max(_PAGE, mapping.rss)))
        elif mapping.end - mapping.start > room:
            mapping = mapping._replace(end=mapping.start + room)
        if mapping.end > mapping.start:
            rss = min(mapping.rss, mapping.end - mapping.start)
            found.append(mapping._replace(rss=rss))
    return found


def _perms(mode: str) -> str:
    return mode[:3] + ("s" if mode[3] in "sS" else "p")


def _path(name: str) -> str:
    name = name.strip()
    return _NAMES.get(name, name)
