"""The range that is asked for, and the mappings it lies in.

Scope: text to addresses; one reading of /proc/PID/smaps up to the end of the range.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.errors import UsageError
from nativeleak.triage.regions import Region, read_regions
from nativeleak.units import format_bytes, parse_size

_HEX: Final = r"(?:0[xX])?([0-9a-fA-F]{1,16})"
_ASKED: Final = re.compile(rf"{_HEX}(?:-{_HEX}|\+(\S+))?")
_KERNEL: Final = ("[vvar", "[vsyscall]", "[vdso]")
# Documentation/filesystems/proc.rst, VmFlags: io, memory of a device; pf, page frames without a struct page.
_DEVICE_FLAGS: Final = frozenset(("io", "pf"))
_NO_DUMP: Final = "dd"  # MADV_DONTDUMP


@dataclass(frozen=True, slots=True)
class Span:
    """What is looked at.

    Attributes:
        start: First address, as asked.
        end: First address behind it, as asked, or that of the mapping.
        regions: Mappings that hold any of it and can be read, in address order.
        unmapped_bytes: Of the range, what no mapping holds.
        device_bytes: Of the range, memory of devices and of the kernel, which is left alone.
        is_private: The program asked to keep some of it out of core dumps (MADV_DONTDUMP), as keys are kept.
    """

    start: int
    end: int
    regions: tuple[Region, ...]
    unmapped_bytes: int
    device_bytes: int
    is_private: bool

    @property
    def n_bytes(self) -> int:
        """Of addresses."""
        return self.end - self.start

    @property
    def mapping_starts(self) -> frozenset[int]:
        """Where mappings begin."""
        return frozenset(region.start for region in self.regions)

    def pieces(self) -> list[tuple[int, int]]:
        """(start, end) of what can be read; neighbours are one piece."""
        joined: list[tuple[int, int]] = []
        for region in self.regions:
            start, end = max(region.start, self.start), min(region.end, self.end)
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((start, end))
        return joined


def parse_range(text: str) -> tuple[int, int | None]:
    """(start, end) of ``7f0012340000-7f0012350000``, ``0x7f0012340000+64K``, ``7f0012340000``; end may be None.

    Raises:
        UsageError: The text is neither, or the end is not behind the start.
    """
    match = _ASKED.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"peek at {text!r} failed: not an address or a range",
            "Write it as maps does: 7f0012340000, 7f0012340000-7f0012350000 or 7f0012340000+64K.",
        )
    start = int(match[1], 16)
    end = int(match[2], 16) if match[2] else None
    if match[3]:
        try:
            end = start + parse_size(match[3])
        except ValueError as error:
            raise UsageError(f"peek at {text!r} failed: {error}") from error
    if end is not None and end <= start:
        raise UsageError(f"peek at {text!r} failed: the end is not behind the start", "Write START-END, or START+SIZE.")
    return start, end


def find_span(pid: int, start: int, end: int | None) -> Span:
    """The mappings of a range; without an end those of the whole mapping that holds the address.

    Raises:
        NativeleakError: There is no such process, or it may not be read.
        UsageError: Nothing is mapped there, or nothing that can be read.
    """
    regions = read_regions(pid)
    if end is None:
        holder = next((region for region in regions if region.start <= start < region.end), None)
        if holder is None:
            raise _nothing(pid, regions, start, start + 1)
        start, end = holder.start, holder.end
    inside = [region for region in regions if region.start < end and region.end > start]
    if not inside:
        raise _nothing(pid, regions, start, end)
    readable = tuple(region for region in inside if not is_device(region))
    if not readable:
        raise UsageError(
            f"peek at {start:x}-{end:x} failed: this is memory of a device or of the kernel ({inside[0].entry.path})",
            "A read could change the device's state; it is left alone.",
        )
    mapped = _overlap(inside, start, end)
    return Span(
        start,
        end,
        readable,
        unmapped_bytes=end - start - mapped,
        device_bytes=mapped - _overlap(readable, start, end),
        is_private=any(_NO_DUMP in region.flags.split() for region in readable),
    )


def is_device(region: Region) -> bool:
    """Whether a read could reach a device, or is the kernel's own memory."""
    return bool(_DEVICE_FLAGS & set(region.flags.split())) or region.entry.path.startswith(_KERNEL)


def _overlap(regions: Sequence[Region], start: int, end: int) -> int:
    return sum(min(region.end, end) - max(region.start, start) for region in regions)


def _nothing(pid: int, regions: Sequence[Region], start: int, end: int) -> UsageError:
    near = min(regions, key=lambda region: min(abs(region.start - end), abs(region.end - start)), default=None)
    hint = "" if near is None else (
        f" The nearest mapping is {near.start:x}-{near.end:x}, {format_bytes(near.end - near.start)}."
    )  # fmt: skip
    return UsageError(
        f"peek at {start:x}-{end:x} failed: process {pid} has nothing mapped there",
        f"nativeleak maps -p {pid} --sort rss lists its ranges.{hint}",
    )
