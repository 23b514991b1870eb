"""Mappings with their resident memory, as /proc/PID/smaps of a living process has them.

Scope: text in, tuples out; lines that make no sense are passed over. Sizes in bytes.

Source: ``show_smap`` and ``show_map_vma`` in fs/proc/task_mmu.c.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_HEADER: Final = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]{1,16}) ([0-9a-f:]{1,12}) (\d{1,20}) *(.*)",
    re.DOTALL,
)
_FIELD: Final = re.compile(r"(Rss|Anonymous): +(\d{1,15}) kB")
_FLAGS: Final = "VmFlags:"
_DELETED: Final = " (deleted)"
MAX_MAPPED: Final = 1 << 57
"""No process has more: five levels of page tables."""
MAX_LINE: Final = 1 << 14
"""Longest line that is looked at: a path has at most 4,096 bytes, four times as many characters when escaped."""


class Mapping(NamedTuple):
    """One mapping.

    Attributes:
        perms: As in /proc/PID/maps.
        path: File, a name in brackets, or empty.
        rss: Resident bytes; -1 where the source does not say.
        flags: Two letters each, as VmFlags has them; empty where the source does not say.
        pss: Proportional share of resident bytes; -1 where the source does not say.
        swap: Bytes in swap; -1 where the source does not say.
    """

    start: int
    end: int
    perms: str
    path: str
    rss: int = -1
    flags: str = ""
    pss: int = -1
    swap: int = -1

    @property
    def is_accessible(self) -> bool:
        """Whether it is memory at all: any access is allowed."""
        return self.perms[:3] != "---"

    @property
    def is_anonymous(self) -> bool:
        """Whether no file and no name stands behind it."""
        return not self.path or self.path.startswith("[anon")


def parse_smaps(text: str) -> list[Mapping]:
    """The mappings of a /proc/PID/smaps or /proc/PID/maps, in order of address."""
    found: list[Mapping] = []
    rss, flags = -1, ""
    head: tuple[int, int, str, str] | None = None
    for line in text.split("\n"):
        if line[:4] == "Rss:" or line.startswith(_FLAGS):
            field = _FIELD.match(line[:64])
            if field:
                rss = int(field[2]) << 10
            elif line.startswith(_FLAGS):
                flags = line[len(_FLAGS) : 512].strip()
            continue
        match = _HEADER.fullmatch(line) if len(line) <= MAX_LINE and line[:1] in "0123456789abcdef" else None
        if match is None:
            continue
        if head is not None:
            _add(found, Mapping(*head, rss, flags))
        start, end, perms, _, _, _, path = match.groups()
        head, rss, flags = (int(start, 16), int(end, 16), perms, path.removesuffix(_DELETED)), -1, ""
    if head is not None:
        _add(found, Mapping(*head, rss, flags))
    return found


def _add(found: list[Mapping], mapping: Mapping) -> None:
    """Add what is listed next; where it lies over what stands before it, that has changed while it was listed."""
    if mapping.start >= mapping.end:
        return
    while found and found[-1].end > mapping.start:
        last = found.pop()
        if last.start < mapping.start:
            found.append(last._replace(end=mapping.start))
            break
    found.append(mapping)
