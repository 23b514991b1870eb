"""Profiles of OpenTelemetry, read by the classes of opentelemetry-proto."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.profiles.v1development import profiles_pb2

import recording_fixtures as fixtures
from nativeleak.analysis.select import Selection
from nativeleak.errors import UsageError
from nativeleak.model import Frame, Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.reports.exports import otlp
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_merged, write_report

MIB = fixtures.MIB
ALL = 38 * 16 * MIB + 3 * MIB + 1009 + 192 * MIB + 132 * 1024


def _parsed(stream: io.BytesIO) -> Any:
    data = profiles_pb2.ProfilesData()
    data.ParseFromString(stream.getvalue())
    return data


def _data(recording: Recording) -> Any:
    stream = io.BytesIO()
    write_report(recording, stream, find_format("otlp"), Selection(), WriteOptions())
    return _parsed(stream)


def _profiles(data: Any, resource: Any) -> dict[str, Any]:
    strings = data.dictionary.string_table
    return {
        strings[profile.sample_type.type_strindex]: profile
        for scope in resource.scope_profiles
        for profile in scope.profiles
    }


def _sum(profile: Any) -> int:
    return sum(value for sample in profile.samples for value in sample.values)


def _attributes(data: Any, numbers: Sequence[int]) -> dict[str, Any]:
    found = {}
    for number in numbers:
        attribute = data.dictionary.attribute_table[number]
        value = getattr(attribute.value, attribute.value.WhichOneof("value"))
        found[data.dictionary.string_table[attribute.key_strindex]] = value
    return found


def _names(data: Any, stack_index: int) -> list[str]:
    tables = data.dictionary
    locations = [tables.location_table[i] for i in tables.stack_table[stack_index].location_indices]
    functions = [tables.function_table[line.function_index] for location in locations for line in location.lines]
    return [tables.string_table[function.name_strindex] for function in functions]


def test_profiles_have_the_sums_of_the_report(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        data = _data(recording)
    (resource,) = data.resource_profiles
    profiles = _profiles(data, resource)
    assert {name: _sum(profile) for name, profile in profiles.items()} == {
        "inuse_space": ALL,
        "inuse_objects": 38 + 3072 + 1 + 4,
        "alloc_space": ALL + 8 * MIB + 11 * 4096,
        "alloc_objects": 38 + 4096 + 7168 + 11 + 1 + 4,
        "growth_per_minute": 48 * MIB,
    }
    assert {(each.time_unix_nano, each.duration_nano) for each in profiles.values()} == {
        (round(fixtures.STARTED * 1e9), 720_000_000_000)
    }
    assert {len(profile.profile_id) for profile in profiles.values()} == {16}
    assert len({profile.profile_id for profile in profiles.values()}) == 5


def test_sample_has_its_stack_leaf_first_and_attributes(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        data = _data(recording)
    profile = _profiles(data, data.resource_profiles[0])["inuse_space"]
    (largest,) = [sample for sample in profile.samples if list(sample.values) == [38 * 16 * MIB]]
    names = _names(data, largest.stack_index)
    assert (names[0], names[-1], len(names)) == ("malloc", "start_thread", 26)
    assert _attributes(data, largest.attribute_indices) == {
        "thread.name": "nioEventLoop-1-1",
        "thread.id": 1860,
        "nativeleak.pool": "nioEventLoop-*-*",
        "nativeleak.kind": "heap",
        "nativeleak.owner": "program",
    }


def test_first_entry_of_each_table_is_empty(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        tables = _data(recording).dictionary
    assert tables.string_table[0] == ""
    for name in ("mapping_table", "location_table", "function_table", "link_table", "attribute_table", "stack_table"):
        table = getattr(tables, name)
        assert table[0] == type(table[0])(), name
    assert len(set(tables.string_table)) == len(tables.string_table)


def test_module_has_its_build_id_and_odd_names_stay_text(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        frame = Frame("ev\udcff", "libx.so", 1 << 63, 1, build_id="aa11", module_offset=0x9A0)
        writer.add_stacks((Stack(1, (frame,)),))
        site = fixtures.heap_site(1, 1, (MIB, 1))
        writer.write_snapshot(fixtures.snapshot(1.0, (site,), threads=fixtures.THREADS))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        data = _data(recording)
    _, mapping = data.dictionary.mapping_table
    assert data.dictionary.string_table[mapping.filename_strindex] == "libx.so"
    assert _attributes(data, mapping.attribute_indices) == {"process.executable.build_id.gnu": "aa11"}
    assert _names(data, 1) == ["ev\\udcff"]
    assert data.dictionary.location_table[1].address == 0x9A0


def test_processes_of_many_recordings_are_resources(tmp_path: Path) -> None:
    files = [fixtures.write_of_process(tmp_path / f"{host}.nlk", host, 101) for host in ("alder", "birch")]
    stream = io.BytesIO()
    write_merged(files, stream, find_format("otlp"), Selection(), WriteOptions())
    data = _parsed(stream)
    held = {}
    for resource in data.resource_profiles:
        facts = {each.key: each.value.string_value or each.value.int_value for each in resource.resource.attributes}
        held[facts["host.name"], facts["process.pid"]] = _sum(_profiles(data, resource)["inuse_space"])
    assert held == {("alder", 101): ALL, ("birch", 101): ALL}


def test_missing_package_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_PROTO", "opentelemetry.proto.none.such")
    with (
        open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording,
        pytest.raises(UsageError, match="opentelemetry-proto, which is not installed") as error,
    ):
        _data(recording)
    assert "pip install opentelemetry-proto" in error.value.remedy
