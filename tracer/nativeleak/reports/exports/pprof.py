"""A profile for pprof: the gzipped Protocol Buffers message ``perftools.profiles.Profile``.

Source: https://github.com/google/pprof/blob/main/proto/profile.proto

A recording knows the build id of a module, and where its ELF addresses lie in the process, but no file offsets. Each
module is one mapping from the page of its first frame to that of its last. Its file offset is taken to be the distance
from the module's first byte, as GNU ld links: pprof looks for the segment with that offset.

Growth is in bytes a minute. Memory that allocators took from the kernel for themselves is left out, as in all totals.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import BinaryIO, Final, NamedTuple

from nativeleak import __version__
from nativeleak.analysis.select import Metric, pool_of
from nativeleak.model import Frame, FrameKind, Kind, Owner
from nativeleak.reports.exports.protobuf import bytes_field, number_field, packed_field, varint
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import SiteReport, SiteTable

SAMPLE_TYPES: Final = (
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
    ("growth_per_minute", "bytes"),
)
"""Types of values, in the order of each sample."""
FREED: Final = "[freed; the stack was dropped during the trace]"
"""Stands for the stacks of allocated memory whose sites were dropped, because all of it is freed."""

_DEFAULT_TYPES: Final = {
    Metric.ALLOCATED: "alloc_space",
    Metric.COUNT: "inuse_objects",
    Metric.GROWTH: "growth_per_minute",
}
_PAGE: Final = 4096
_FIXED_START: Final = 0x400000
"""Where GNU ld and lld link an executable that cannot be moved."""
_LAST: Final = (1 << 64) - 1
_MOST: Final = (1 << 63) - 1
_LEVEL: Final = 6


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """The whole profile. No file name and no time of writing are in its gzip header: equal reports are equal bytes."""
    del options
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=stream, mtime=0) as packed:
        packed.write(b"".join(_Profile(report).fields()))


class _Profile:
    """The fields of one profile; tables fill while samples are encoded."""

    def __init__(self, report: SiteTable) -> None:
        self._report = report
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[tuple[bool, tuple[Frame, ...]], bytes] = {}
        self._mappings = _Mappings([PurePath(target.exe).name for target in report.trace.targets])
        self._tables: list[bytes] = []
        self._label_sets: dict[tuple[str, int, int, Kind, Owner, str, str], bytes] = {}
        self._of_callers: dict[int, bytes] = {}
        """By the id of a frame object, which the rows keep: a frame's own hash takes as long as all the rest."""

    def fields(self) -> Iterator[bytes]:
        """The encoded fields of the message."""
        for name, unit in SAMPLE_TYPES:
            yield bytes_field(1, self._value_type(name, unit))
        rows = self._report.rows.sites.rows
        frames: dict[int, Frame] = {}
        for site in rows:
            frames.update(zip(map(id, site.stack.frames), site.stack.frames, strict=True))
        self._mappings.measure(frames.values())
        for site in rows:
            yield bytes_field(2, self._sample(site))
        yield from self._dropped(rows)
        for mapping in self._mappings.rows():
            yield bytes_field(3, self._mapping(*mapping))
        yield from self._tables
        trace = self._report.trace
        yield number_field(9, _int64(trace.info.started * 1e9))
        yield number_field(10, _int64(trace.duration_s * 1e9))
        yield bytes_field(11, self._value_type("space", "bytes"))
        yield number_field(12, _int64(trace.sample_bytes or 1))
        yield packed_field(13, [self._string(comment) for comment in _comments(self._report)])
        yield number_field(14, self._string(_DEFAULT_TYPES.get(self._report.selection.metric, "inuse_space")))
        for text in self._strings:
            yield bytes_field(6, encode_text(text))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _value_type(self, name: str, unit: str) -> bytes:
        return number_field(1, self._string(name)) + number_field(2, self._string(unit))

    def _sample(self, site: SiteReport) -> bytes:
        totals = site.totals
        values = (
            totals.allocated_count,
            totals.allocated_bytes,
            totals.outstanding_count,
            totals.outstanding_bytes,
            site.growth.slope_bytes_per_s * 60,
        )
        stack = bytes_field(1, self._stack(site.stack.frames))
        return stack + packed_field(2, map(_int64, values)) + self._labels(site)

    def _labels(self, site: SiteReport) -> bytes:
        key = site.thread, site.tid, site.pid, site.kind, site.owner, site.host, site.process
        known = self._label_sets.get(key)
        if known is None:
            labels = {
                "thread": printable(site.thread),
                "pool": printable(pool_of(site.thread)),
                "tid": str(site.tid) if site.tid else "",
                "pid": str(site.pid) if site.pid else "",
                "kind": site.kind.value,
                "owner": site.owner.value,
                "host": printable(site.host),
                "process": printable(site.process),
            }
            known = b"".join(bytes_field(3, self._label(name, text)) for name, text in labels.items() if text)
            self._label_sets[key] = known
        return known

    def _dropped(self, rows: Sequence[SiteReport]) -> Iterator[bytes]:
        """One sample for memory of sites that were dropped; without it the allocated bytes would not add up."""
        if self._report.selection.is_filtered:
            return
        sums = self._report.sums.by_kind.values()
        n_bytes = sum(each.allocated_bytes for each in sums) - sum(row.totals.allocated_bytes for row in rows)
        n_blocks = sum(each.allocated_count for each in sums) - sum(row.totals.allocated_count for row in rows)
        if n_bytes > 0 or n_blocks > 0:
            stack = self._stack((Frame(FREED, None, 0, 0, FrameKind.UNRESOLVED),))
            yield bytes_field(2, bytes_field(1, stack) + packed_field(2, map(_int64, (n_blocks, n_bytes, 0, 0, 0))))

    def _label(self, name: str, text: str) -> bytes:
        return number_field(1, self._string(name)) + number_field(2, self._string(text))

    def _stack(self, frames: tuple[Frame, ...]) -> bytes:
        """Ids of the locations, leaf first. Inlined methods share the location of the method they are inlined into."""
        callers = list(map(self._of_callers.get, map(id, frames[1:])))
        if None not in callers and frames and not _is_inlined(frames[0]):
            return self._location(frames[:1], is_leaf=True) + b"".join(filter(None, callers))
        found = bytearray()
        at = 0
        while at < len(frames):
            known = self._of_callers.get(id(frames[at])) if at else None
            if known is not None:
                found += known
                at += 1
                continue
            end = at + 1
            while end < len(frames) and _is_inlined(frames[end - 1]) and _joins(frames, end):
                end += 1
            location = self._location(tuple(frames[at:end]), is_leaf=not at)
            if at and not _is_inlined(frames[at]):
                self._of_callers[id(frames[at])] = location
            found += location
            at = end
        return bytes(found)

    def _location(self, group: tuple[Frame, ...], *, is_leaf: bool) -> bytes:
        """Id of the location of these frames. The address of a caller is within its call, so that lines are its own."""
        ip = group[0].ip
        address = ip if is_leaf or not ip else ip - 1
        known = self._locations.get((is_leaf, group))
        if known is not None:
            return known
        number = len(self._locations) + 1
        lines = b"".join(
            bytes_field(4, number_field(1, self._function(frame)) + number_field(2, _int64(frame.line or 0)))
            for frame in group
        )
        head = number_field(1, number) + number_field(2, self._mappings.number(group[0]))
        self._tables.append(bytes_field(4, head + number_field(3, address) + lines))
        encoded = varint(number)
        self._locations[is_leaf, group] = encoded
        return encoded

    def _function(self, frame: Frame) -> int:
        key = (printable(frame.function) or "[no name]", printable(frame.file or ""))
        number = self._functions.get(key)
        if number is None:
            number = self._functions[key] = len(self._functions) + 1
            name, file = map(self._string, key)
            fields = number_field(1, number) + number_field(2, name) + number_field(3, name) + number_field(4, file)
            self._tables.append(bytes_field(5, fields))
        return number

    def _mapping(self, number: int, module: str, build_id: str, start: int, limit: int, offset: int) -> bytes:
        return b"".join(
            (
                number_field(1, number),
                number_field(2, start),
                number_field(3, limit),
                number_field(4, offset),
                number_field(5, self._string(printable(module))),
                number_field(6, self._string(build_id)),
                number_field(7, 1),
            )
        )


class _Module(NamedTuple):
    """A module at one place where it was loaded.

    Attributes:
        bias: Distance of its addresses from those of its file; None where it is not known.
    """

    name: str
    build_id: str
    bias: int | None


class _Mappings:
    """Modules of the frames: a module is one mapping at each place where it was loaded.

    Args:
        programs: File names of executables; pprof names a profile by its first mapping.
    """

    def __init__(self, programs: Sequence[str]) -> None:
        self._programs = programs
        self._numbers: dict[_Module, int] = {}
        self._ranges: dict[_Module, tuple[int, int]] = {}

    def measure(self, frames: Iterable[Frame]) -> None:
        """Find the addresses of each mapping, and number them.

        Args:
            frames: Each once.
        """
        for frame in frames:
            module = _module(frame)
            if module is not None:
                low, high = self._ranges.get(module, (frame.ip, frame.ip))
                self._ranges[module] = min(low, frame.ip), max(high, frame.ip)
        names = {module.name for module in self._ranges}
        for name in self._programs[:1]:
            if name and name not in names:  # as java, whose code is all in libraries: it gives the profile its name
                self._ranges[_Module(name, "", None)] = (0, 0)
        ordered = sorted(self._ranges, key=lambda module: module.name not in self._programs)
        self._numbers = {module: number for number, module in enumerate(ordered, 1)}

    def number(self, frame: Frame) -> int:
        """Id of a frame's mapping; 0 for code of no file."""
        module = _module(frame)
        return 0 if module is None else self._numbers[module]

    def rows(self) -> Iterator[tuple[int, str, str, int, int, int]]:
        """Id, module, build id, first address, end and file offset of each mapping."""
        for module, number in self._numbers.items():
            low, high = self._ranges[module]
            start = max(0, low - 1) // _PAGE * _PAGE  # a return address may begin a page
            limit = min((high // _PAGE + 1) * _PAGE, _LAST)
            first = start if module.bias is None else module.bias or min(_FIXED_START, start)
            yield number, module.name, module.build_id, start, limit, start - first


def _module(frame: Frame) -> _Module | None:
    """The module of a frame; None for code of no file."""
    if frame.module is None or not frame.ip:
        return None
    bias = frame.ip - frame.module_offset
    is_known = frame.module_offset and bias >= 0 and not bias % _PAGE
    return _Module(frame.module, frame.build_id, bias if is_known else None)


def _int64(value: float) -> int:
    """The nearest number that int64 holds: a damaged recording may have others."""
    if math.isnan(value):
        return 0
    if abs(value) >= _MOST:
        return _MOST if value > 0 else -_MOST
    return round(value)


def _is_inlined(frame: Frame) -> bool:
    return frame.is_inlined or frame.kind is FrameKind.JAVA_INLINED


def _joins(frames: Sequence[Frame], at: int) -> bool:
    """Whether a frame is what the one before it is inlined into."""
    here, before = frames[at], frames[at - 1]
    if here.ip != before.ip:
        return False
    return before.is_inlined or here.kind in (FrameKind.JAVA_INLINED, FrameKind.JAVA_COMPILED)


def _comments(report: SiteTable) -> Iterator[str]:
    trace = report.trace
    yield f"nativeleak {__version__} from {printable(trace.name)}"
    yield "growth_per_minute: growth of memory in use, bytes a minute"
    if trace.sample_bytes:
        yield f"heap memory is estimated: one block in about {trace.sample_bytes} bytes was sampled"
    if not trace.info.coverage.has_blocks:
        yield "heap blocks were not traced: address space only"
    for name, count in report.counters.items():
        if count and (name.startswith(("lost_", "truncated_")) or name == "unresolved_frames"):
            yield f"{name}: {count}"
