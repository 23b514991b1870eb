"""A trace for https://ui.perfetto.dev: a heap profile of each process at the end, and memory over time as counters.

Source: https://github.com/google/perfetto, protos/perfetto/trace/: trace_packet.proto, profiling/profile_packet.proto,
interned_data/interned_data.proto, track_event/track_event.proto, track_event/counter_descriptor.proto.

A heap of the profile is a kind of memory (malloc, mmap, brk). Its samples are stacks with allocated and freed bytes, of
which the difference is outstanding; the root of each is the thread. Growth has no place in it: the counters show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final

import numpy as np

from nativeleak.analysis.resident import resident_course
from nativeleak.model import Frame, Kind, TargetInfo
from nativeleak.recording import Recording
from nativeleak.reports.exports.protobuf import bytes_field, kept_number_field, number_field, packed_field
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.memory import LABELS
from nativeleak.reports.names import printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import Report, SiteReport

HEAPS: Final = {Kind.HEAP: "malloc", Kind.MAP: "mmap", Kind.BRK: "brk"}
"""Names of the heaps in the profile."""

_SEQUENCE: Final = 1
_STATE_CLEARED: Final = 1
_NEEDS_STATE: Final = 2
_COUNTER: Final = 4
_BYTES: Final = 3
_BOOT_CLOCK: Final = 6
_REAL_CLOCK: Final = 1
_FIRST_NS: Final = 1
"""Time of the first moment: 0 stands for no time."""
_NO_FILE: Final = "[no file]"
_THREADS: Final = "[threads]"
_NS: Final = 1_000_000_000
_MOST: Final = (1 << 63) - 1


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """The packets of the trace, one after another."""
    del options
    recording = report.detail.recording
    for packet in _packets(report, recording):
        stream.write(bytes_field(1, packet))


def _packets(report: Report, recording: Recording) -> Iterator[bytes]:
    started_ns = min(max(0, round(recording.info.started * _NS)), _MOST)
    clocks = ((_BOOT_CLOCK, _FIRST_NS), (_REAL_CLOCK, started_ns))
    yield _packet(
        bytes_field(6, b"".join(bytes_field(1, number_field(1, clock) + number_field(2, at)) for clock, at in clocks))
    )
    yield _packet(bytes_field(2, b"".join(bytes_field(1, _process(target)) for target in recording.targets)))
    yield from _counters(report, recording)
    yield _profile(report, _ns(recording.elapsed_s))


def _packet(fields: bytes, at_ns: int = 0, flags: int = 0) -> bytes:
    return fields + number_field(8, at_ns) + number_field(10, _SEQUENCE) + number_field(13, flags)


def _process(target: TargetInfo) -> bytes:
    return number_field(1, target.pid) + bytes_field(3, encode_text(printable(target.comm)))


def _counters(report: Report, recording: Recording) -> Iterator[bytes]:
    """Tracks of counters below a track of the first process, then their values in the order of time."""
    named = _courses(report, recording)
    root = 1
    for target in recording.targets[:1]:
        process = number_field(1, target.pid) + bytes_field(6, encode_text(printable(target.comm)))
        yield _packet(bytes_field(60, number_field(1, root) + bytes_field(3, process)))
    values: list[tuple[int, int, int]] = []
    for track, (name, course) in enumerate(named.items(), root + 1):
        described = number_field(1, track) + number_field(5, root) + bytes_field(2, encode_text(name))
        yield _packet(bytes_field(60, described + bytes_field(8, number_field(3, _BYTES))))
        values += [(_ns(at_s), track, n_bytes) for at_s, n_bytes in course]
    for at_ns, track, n_bytes in sorted(values):
        value = kept_number_field(30, n_bytes)
        yield _packet(bytes_field(11, number_field(9, _COUNTER) + number_field(11, track) + value), at_ns)


def _courses(report: Report, recording: Recording) -> Mapping[str, Sequence[tuple[float, int]]]:
    """Name, and seconds and bytes at each moment, of every counter."""
    named = {
        "resident memory": [(each.elapsed_s, each.rss_bytes) for each in recording.snapshots if each.rss_bytes],
        "outstanding since the start": _outstanding(report, recording),
    }
    course = resident_course(recording)
    for line, label in LABELS.items():
        values = [(moment.elapsed_s, moment.lines[line]) for moment in course]
        if any(n_bytes for _, n_bytes in values):
            named[f"resident: {label}"] = values
    for limit, usage in zip(recording.memory.limits, recording.memory.usage, strict=True):
        used = [
            (recording.snapshots[i].elapsed_s, n_bytes)
            for i, n_bytes in sorted(usage.items())
            if i < len(recording.snapshots)
        ]
        named[f"used of {limit.kind.value} {printable(limit.name)}, limit {limit.limit_bytes} bytes"] = used
    return {name: values for name, values in named.items() if values}


def _outstanding(report: Report, recording: Recording) -> list[tuple[float, int]]:
    counts = np.zeros(recording.n_sites, dtype=np.bool_)
    counts[report.detail.sites.index.to_numpy()] = True
    now = np.zeros(len(counts), dtype=np.int64)
    course = []
    for snapshot, samples in zip(recording.snapshots, recording.samples(), strict=True):
        now[np.asarray(samples.site_id)] = np.asarray(samples.outstanding_bytes)
        course.append((snapshot.elapsed_s, int(now[counts].sum())))
    return course


def _ns(seconds: float) -> int:
    return min(_FIRST_NS + max(0, round(seconds * _NS)), _MOST)


def _profile(report: Report, end_ns: int) -> bytes:
    """The packet with the profile of all processes, and the tables that it refers to."""
    tables = _Tables()
    heaps: dict[tuple[int, Kind], dict[int, list[int]]] = {}
    for site in report.rows.sites.rows:
        totals = site.totals
        sums = heaps.setdefault((site.pid, site.kind), {}).setdefault(tables.stack(site), [0, 0, 0, 0])
        figures = (totals.allocated_bytes, totals.freed_bytes, totals.allocated_count, totals.freed_count)
        sums[:] = [min(before + figure, _MOST) for before, figure in zip(sums, figures, strict=True)]
    interval = report.trace.sample_bytes or 1
    dumps = b"".join(
        bytes_field(5, _dump(pid, kind, stacks, interval, end_ns)) for (pid, kind), stacks in heaps.items()
    )
    return _packet(bytes_field(12, tables.interned()) + bytes_field(37, dumps), end_ns, _STATE_CLEARED | _NEEDS_STATE)


def _dump(pid: int, kind: Kind, stacks: Mapping[int, Sequence[int]], interval: int, end_ns: int) -> bytes:
    samples = b"".join(
        bytes_field(
            2,
            number_field(1, stack)
            + number_field(2, allocated)
            + number_field(3, freed)
            + number_field(5, n_allocated)
            + number_field(6, n_freed),
        )
        for stack, (allocated, freed, n_allocated, n_freed) in stacks.items()
    )
    head = number_field(1, pid) + bytes_field(11, HEAPS[kind].encode()) + number_field(12, interval)
    return head + number_field(9, end_ns) + samples


class _Tables:
    """Texts, modules, frames and stacks of the profile, each numbered from 1."""

    def __init__(self) -> None:
        self._texts: dict[int, dict[bytes, int]] = {5: {}, 16: {}, 17: {}, 18: {}}
        self._modules: dict[tuple[str, str], int] = {}
        self._frames: dict[tuple[str, int, int, str, int], int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}
        self._of_frame: dict[int, int] = {}

    def stack(self, site: SiteReport) -> int:
        """Number of the stack of a site, below its thread."""
        frames = [self._frame(printable(site.thread), _THREADS, "", 0, "", 0)]
        frames += map(self._number, reversed(site.stack.frames))
        return self._stacks.setdefault(tuple(frames), len(self._stacks) + 1)

    def interned(self) -> bytes:
        """The message InternedData."""
        modules = [
            (19, number_field(1, number) + number_field(2, self._text(16, bytes.fromhex(build_id)))
             + packed_field(7, [self._text(17, encode_text(name))]))
            for (name, build_id), number in self._modules.items()
        ]  # fmt: skip
        frames = [
            (6, number_field(1, number) + number_field(2, self._text(5, encode_text(name))) + number_field(3, module)
             + number_field(4, address) + number_field(5, self._text(18, encode_text(file)))
             + number_field(6, line))
            for (name, module, address, file, line), number in self._frames.items()
        ]  # fmt: skip
        stacks = [
            (7, number_field(1, number) + packed_field(2, frames_of)) for frames_of, number in self._stacks.items()
        ]
        texts = [
            (field, number_field(1, number) + bytes_field(2, text))
            for field, known in self._texts.items()
            for text, number in known.items()
        ]
        return b"".join(bytes_field(field, row) for field, row in (*texts, *modules, *frames, *stacks))

    def _text(self, field: int, text: bytes) -> int:
        """Number of a text in its table; 0 for none."""
        known = self._texts[field]
        return known.setdefault(text, len(known) + 1) if text else 0

    def _number(self, frame: Frame) -> int:
        number = self._of_frame.get(id(frame))
        if number is None:
            name = printable(frame.function) or "[no name]"
            file = printable(frame.file or "")
            module = printable(frame.module) if frame.module else _NO_FILE
            address = frame.module_offset or frame.offset
            number = self._frame(name, module, frame.build_id, address, file, frame.line or 0)
            self._of_frame[id(frame)] = number
        return number

    def _frame(self, name: str, module: str, build_id: str, address: int, file: str, line: int) -> int:
        of_module = self._modules.setdefault((module, _hex(build_id)), len(self._modules) + 1)
        return self._frames.setdefault((name, of_module, address, file, line), len(self._frames) + 1)


def _hex(build_id: str) -> str:
    """The build id, if it is one: a damaged recording may hold another text."""
    try:
        return bytes.fromhex(build_id).hex()
    except ValueError:
        return ""
