"""The mappings of a process with what of them is in memory: /proc/PID/smaps, read once, line by line."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final, NamedTuple

from nativeleak.errors import CannotTraceError
from nativeleak.process.procfs import PTRACE_REMEDY, MapEntry, TargetGoneError, parse_maps

_KIB: Final = 1024
_FIELDS: Final = {b"Rss:": 0, b"Anonymous:": 1, b"AnonHugePages:": 2, b"Swap:": 3, b"Pss:": 4}


class Region(NamedTuple):
    """One mapping.

    Attributes:
        entry: Its line in /proc/PID/maps.
        rss: Bytes in memory.
        anonymous: Of these, without a file behind them.
        huge: Of these, in huge pages.
        swap: Bytes swapped out.
        pss: Bytes in memory, a page that n mappings have counted as 1/n.
        flags: Two letters each, as VmFlags has them.
    """

    entry: MapEntry
    rss: int
    anonymous: int
    huge: int
    swap: int
    pss: int
    flags: str

    @property
    def start(self) -> int:
        """First address."""
        return self.entry.start

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.entry.end


def parse_smaps(lines: Iterable[bytes]) -> list[Region]:
    """Mappings of the lines of a smaps file, in address order; lines that are not known are passed over."""
    regions: list[Region] = []
    entry: MapEntry | None = None
    values = [0] * len(_FIELDS)
    for line in lines:
        head, _, rest = line.partition(b" ")
        if head[-1:] == b":":
            place = _FIELDS.get(head)
            if place is not None:
                values[place] = int(rest.split()[0]) * _KIB
            elif head == b"VmFlags:" and entry is not None:
                regions.append(_region(entry, values, rest.decode("ascii", "replace").strip()))
                entry = None
            continue
        if entry is not None:  # a kernel without VmFlags
            regions.append(_region(entry, values, ""))
        parsed = parse_maps(line.rstrip(b"\n").decode("utf-8", "surrogateescape"))
        entry = parsed[0] if parsed else None
        values = [0] * len(_FIELDS)
    if entry is not None:
        regions.append(_region(entry, values, ""))
    return regions


def _region(entry: MapEntry, values: list[int], flags: str) -> Region:
    rss, anonymous, huge, swap, pss = values
    return Region(entry, rss, anonymous, huge, swap, pss, flags)


def read_regions(pid: int) -> list[Region]:
    """The mappings of a process.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: Its mappings may not be read with these rights.
    """
    path = f"/proc/{pid}/smaps"
    try:
        with open(path, "rb", buffering=1 << 16) as file:
            return parse_smaps(file)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise TargetGoneError(f"reading {path} failed: process {pid} is gone") from error
        raise CannotTraceError(f"reading {path} failed: {error.strerror}", PTRACE_REMEDY) from error
