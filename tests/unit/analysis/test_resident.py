"""Resident memory by use, its peak, and a recording as it was at one snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.resident import ResidentLine, resident_memory, snapshot_at
from nativeleak.errors import UsageError
from nativeleak.model import FrameKind, Limit, LimitKind, LimitUse, MemoryLine, MemoryReading, ProcessMemory, Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.recording.moment import RecordingAt
from nativeleak.reports.memory import memory_report
from nativeleak.reports.text_resident import memory_line, resident_lines

MIB = 1 << 20
HEAP_MIB = (0, 20, 450, 30, 30, 30)
"""Outstanding memory of one site at each snapshot, one a minute."""


def _reading(minute: int, **lines: int) -> MemoryReading:
    sizes = {MemoryLine(name): n_mib * MIB for name, n_mib in lines.items()}
    return MemoryReading(0, 60.0 * minute, dict.fromkeys(MemoryLine, 0) | sizes)


READINGS = {
    0: (_reading(0, allocator=10, files=20),),
    2: (_reading(3, allocator=461, files=20),),
    5: (_reading(6, allocator=100, files=21, unexplained=1),),
}


def _record(path: Path, mark_mib: int = 481) -> Recording:
    """A peak of 481 MiB that came and went, and 70 MiB that the allocator kept."""
    limit = Limit(0, LimitKind.CGROUP, "/memory/g/memory.max", 1024 * MIB)

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(fixtures.STACKS)
        for minute, n_mib in enumerate(HEAP_MIB):
            rss = max((n_mib + 31) * MIB, 122 * MIB if minute > 2 else 0)
            marks = ProcessMemory(0, rss, rss, 0, (30 if minute == 0 else mark_mib) * MIB, 3)
            writer.write_snapshot(
                fixtures.snapshot(
                    60.0 * (minute + 1),
                    [fixtures.heap_site(2, 12, (450 * MIB, 450), ((450 - n_mib) * MIB, 450 - n_mib))],
                    rss_bytes=rss,
                    limits=(LimitUse(limit, rss),),
                    processes=(marks,),
                    readings=READINGS.get(minute, ()),
                )
            )

    return fixtures.record(path, write)


def test_lines_add_up_and_part_live_blocks_from_retained_memory(tmp_path: Path) -> None:
    with _record(tmp_path / "a.nlk") as recording:
        memory = resident_memory(recording)
    assert memory is not None
    assert memory.start is not None
    assert memory.end is not None
    assert memory.peak is not None
    assert memory.end.rss_bytes == 122 * MIB
    assert memory.end.lines[ResidentLine.LIVE] == 30 * MIB
    assert memory.end.lines[ResidentLine.RETAINED] == 70 * MIB
    assert memory.start.lines[ResidentLine.RETAINED] == 10 * MIB
    assert memory.peak.lines[ResidentLine.LIVE] == 450 * MIB
    assert (memory.peak_bytes, memory.peak_at_s) == (481 * MIB, 180.0)


def test_text_never_gives_the_end_without_a_peak_far_above_it(tmp_path: Path) -> None:
    with _record(tmp_path / "a.nlk") as recording:
        report = memory_report(recording)
    line, lines = memory_line(report), list(resident_lines(report))
    assert "peak 481 MiB at 3m 00s" in line
    assert lines[0].startswith(
        "+92 MiB = allocator memory not in live blocks: retained or from before the trace +60 MiB"
    )
    assert lines[1].startswith("at 3m 00s 481 MiB = live blocks 450 MiB")


def test_peak_between_two_snapshots_is_known_by_its_size(tmp_path: Path) -> None:
    with _record(tmp_path / "a.nlk", mark_mib=900) as recording:
        memory = resident_memory(recording)
        line = memory_line(memory_report(recording))
    assert memory is not None
    assert (memory.peak_bytes, memory.is_between) == (900 * MIB, True)
    assert "peak 900 MiB before 2m 00s, between two snapshots" in line


def test_moment_has_the_totals_of_its_snapshot(tmp_path: Path) -> None:
    with _record(tmp_path / "a.nlk") as recording:
        number = snapshot_at(recording, "peak")
        assert number == 2
        then = RecordingAt(recording, number)
        (site,) = then.sites
        assert (site.outstanding_bytes, site.outstanding_count) == (450 * MIB, 450)
        assert then.elapsed_s == 180.0
        assert len(list(then.samples())) == 3
        assert [snapshot_at(recording, moment) for moment in ("end", "65s", "1h")] == [5, 0, 5]
        with pytest.raises(UsageError, match="--at noon"):
            snapshot_at(recording, "noon")


def test_recording_without_limits_reports_without_them(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        report = memory_report(recording)
    assert (report.limits, report.threads) == ((), None)
    assert list(resident_lines(report)) == []


def test_threads_that_grow_are_said_with_the_call_that_starts_them(tmp_path: Path) -> None:
    """One path, interpreted and compiled: two stacks, one starter."""
    ways = (FrameKind.JAVA_INTERPRETED, FrameKind.JAVA_COMPILED)

    def write(writer: RecordingWriter) -> None:
        for key, kind in enumerate(ways, start=1):
            names = ("java.util.concurrent.ThreadPoolExecutor.addWorker", "shop.HttpClient.get", "shop.Main.main")
            native = [fixtures.native(name) for name in ("mmap", "pthread_create", "os::create_thread")]
            writer.add_stacks([Stack(key, (*native, *(fixtures.java(name, kind) for name in names)))])
        for second in range(1, 17):
            sites = [
                fixtures.map_site(2, key, (5 * second * MIB, 5 * second), resident_bytes=90 << 10) for key in (1, 2)
            ]
            process = ProcessMemory(0, MIB, MIB, 0, MIB, 3 + 10 * second)
            writer.write_snapshot(
                fixtures.snapshot(float(second), sites, rss_bytes=MIB, processes=(process,), readings=READINGS[0])
            )

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        report = memory_report(recording)
    assert report.threads is not None
    assert report.threads.is_finding
    assert report.threads.growth.slope_bytes_per_s == pytest.approx(10)
    (starter,) = report.threads.starters
    assert (starter.n_threads, starter.stack_keys) == (160, (1, 2))
    text = list(resident_lines(report))
    assert text[-2].startswith("threads 13 -> 163: +10 a second")
    assert text[-1].startswith(
        "160 started by shop.HttpClient.get, by way of java.util.concurrent.ThreadPoolExecutor.addWorker"
    )
