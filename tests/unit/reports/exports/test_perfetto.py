"""Traces for Perfetto, read by the definitions that the package perfetto has.

Its trace_processor is no part of that package: it is fetched from elsewhere when it is first used.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2

import recording_fixtures as fixtures
from nativeleak.analysis.select import Selection
from nativeleak.model import Frame, Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_report

MIB = fixtures.MIB


def _trace(recording: Recording, **selection: Any) -> Any:
    stream = io.BytesIO()
    write_report(recording, stream, find_format("perfetto"), Selection(**selection), WriteOptions())
    trace = perfetto_trace_pb2.Trace()
    trace.ParseFromString(stream.getvalue())
    return trace


@pytest.fixture
def gateway(tmp_path: Path) -> Any:
    with open_recording(fixtures.write_gateway(tmp_path / "gateway.nlk")) as recording:
        return _trace(recording)


def _profile(trace: Any) -> Any:
    (packet,) = [packet for packet in trace.packet if packet.HasField("profile_packet")]
    return packet


def _stacks(packet: Any) -> dict[int, list[str]]:
    """Functions of each stack, root first, through all tables."""
    interned = packet.interned_data
    names = {each.iid: each.str.decode() for each in interned.function_names}
    modules = {each.iid for each in interned.mappings}
    assert all(frame.mapping_id in modules for frame in interned.frames)
    frames = {frame.iid: names[frame.function_name_id] for frame in interned.frames}
    return {stack.iid: [frames[number] for number in stack.frame_ids] for stack in interned.callstacks}


def test_heaps_have_the_sums_of_the_report(gateway: Any) -> None:
    sums = {}
    for dump in _profile(gateway).profile_packet.process_dumps:
        held = sum(sample.self_allocated - sample.self_freed for sample in dump.samples)
        blocks = sum(sample.alloc_count - sample.free_count for sample in dump.samples)
        sums[dump.pid, dump.heap_name] = held, blocks
    assert sums == {
        (5687, "malloc"): (38 * 16 * MIB + 3 * MIB + 1009, 38 + 3072 + 1),
        (5687, "mmap"): (192 * MIB, 3),
        (5687, "brk"): (132 * 1024, 1),
    }


def test_stack_is_root_first_below_its_thread(gateway: Any) -> None:
    packet = _profile(gateway)
    stacks = _stacks(packet)
    (largest,) = [
        stacks[sample.callstack_id]
        for dump in packet.profile_packet.process_dumps
        for sample in dump.samples
        if sample.self_allocated == 38 * 16 * MIB
    ]
    assert (largest[:2], largest[-1], len(largest)) == (["nioEventLoop-1-1", "start_thread"], "malloc", 27)
    files = {each.iid: each.str.decode() for each in packet.interned_data.source_paths}
    assert ("os.cpp", 735) in {
        (files.get(each.source_path_iid), each.line_number) for each in packet.interned_data.frames
    }


def test_counters_have_the_course_of_memory(gateway: Any) -> None:
    tracks = {packet.track_descriptor.uuid: packet.track_descriptor for packet in gateway.packet
              if packet.HasField("track_descriptor")}  # fmt: skip
    courses: dict[str, list[tuple[int, int]]] = {}
    for packet in gateway.packet:
        if packet.HasField("track_event"):
            event, track = packet.track_event, tracks[packet.track_event.track_uuid]
            assert (event.type, track.counter.unit) == (4, 3)
            assert tracks[track.parent_uuid].process.pid == 5687
            courses.setdefault(track.name, []).append((packet.timestamp, event.counter_value))
    minute_ns = 60_000_000_000
    assert courses["resident memory"] == [
        (1 + minute * minute_ns, 3000 * MIB + (minute - 1) * 50 * MIB) for minute in range(1, 13)
    ]
    assert [n_bytes for _, n_bytes in courses["outstanding since the start"]][::11] == [
        (5 + 3 * minute) * 16 * MIB + 3 * MIB + 1009 + 192 * MIB + 132 * 1024 for minute in (0, 11)
    ]


def test_processes_clocks_and_order(gateway: Any) -> None:
    processes = [each for packet in gateway.packet for each in packet.process_tree.processes]
    assert [(each.pid, list(each.cmdline)) for each in processes] == [(5687, ["java"])]
    clocks = {each.clock_id: each.timestamp for packet in gateway.packet for each in packet.clock_snapshot.clocks}
    assert clocks == {6: 1, 1: round(fixtures.STARTED * 1e9)}
    times = [packet.timestamp for packet in gateway.packet if packet.timestamp]
    assert times == sorted(times)
    assert Counter(packet.trusted_packet_sequence_id for packet in gateway.packet).keys() == {1}


def test_build_ids_and_odd_names_hold(tmp_path: Path) -> None:
    frames = (Frame("ev\udcff", "li\nb", 1 << 63, 1, build_id="aa11", module_offset=0x9A0), Frame("main", None, 5, 5),
              Frame("start", "app", 1, 1, build_id="no hex"))  # fmt: skip

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks((Stack(1, frames),))
        site = fixtures.heap_site(1, 1, (MIB, 1))
        writer.write_snapshot(fixtures.snapshot(1.0, (site,), threads=fixtures.THREADS))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        packet = _profile(_trace(recording))
    paths = {each.iid: each.str for each in packet.interned_data.mapping_paths}
    builds = {each.iid: each.str for each in packet.interned_data.build_ids}
    modules = {paths[each.path_string_ids[0]]: builds.get(each.build_id) for each in packet.interned_data.mappings}
    assert modules == {b"[threads]": None, b"[no file]": None, b"app": None, b"li\\x0ab": b"\xaa\x11"}
    assert next(iter(_stacks(packet).values())) == ["java", "start", "main", "ev\\udcff"]
