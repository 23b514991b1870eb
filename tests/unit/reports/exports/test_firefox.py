"""Profiles for profiler.firefox.com, by the rules of the processed profile format.

Its own code is in no package, so this checks each table as the format's description has it: lengths of columns, and
that every index leads into its table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import Metric
from nativeleak.recording import Recording, RecordingWriter, open_recording
from rendering import render_selected

MIB = fixtures.MIB
HEAP = 38 * 16 * MIB + 3 * MIB + 1009
Json = dict[str, Any]

TABLES = ("samples", "markers", "stackTable", "frameTable", "funcTable", "resourceTable", "nativeSymbols")
COLORS = {"grey", "blue", "green", "orange", "transparent", "purple", "yellow", "brown", "magenta", "red", "lightblue"}


def _read(recording: Recording, **selection: Any) -> Json:
    """The profile, which keeps the rules."""
    profile: Json = json.loads(render_selected(recording, "firefox", **selection))
    strings, libs, meta = profile["shared"]["stringArray"], profile["libs"], profile["meta"]
    assert all(isinstance(text, str) for text in strings)
    assert meta["preprocessedProfileVersion"] == 56
    assert {category["color"] for category in meta["categories"]} <= COLORS
    assert meta["categories"][0]["color"] == "grey"
    for thread in profile["threads"]:
        assert isinstance(thread["pid"], str)
        for name in TABLES:
            columns = {key: column for key, column in thread[name].items() if isinstance(column, list)}
            assert {len(column) for column in columns.values()} == {thread[name]["length"]}, name
        stacks, frames, funcs = thread["stackTable"], thread["frameTable"], thread["funcTable"]
        assert all(0 <= stack < stacks["length"] for stack in thread["samples"]["stack"])
        assert all(prefix is None or prefix < at for at, prefix in enumerate(stacks["prefix"]))
        assert all(0 <= frame < frames["length"] for frame in stacks["frame"])
        assert all(0 <= func < funcs["length"] for func in frames["func"])
        assert all(0 <= category < len(meta["categories"]) for category in frames["category"])
        assert all(0 <= name < len(strings) for name in (*funcs["name"], *thread["resourceTable"]["name"]))
        assert all(file is None or 0 <= file < len(strings) for file in funcs["fileName"])
        assert all(-1 <= resource < thread["resourceTable"]["length"] for resource in funcs["resource"])
        assert all(0 <= lib < len(libs) for lib in thread["resourceTable"]["lib"])
        assert thread["samples"]["weightType"] in ("bytes", "samples")
    assert [thread["isMainThread"] for thread in profile["threads"]] == [True] + [False] * (len(profile["threads"]) - 1)
    return profile


def _names(profile: Json, thread: Json, sample: int) -> list[str]:
    """Functions of the stack of a sample, root first."""
    names: list[str] = []
    stack = thread["samples"]["stack"][sample]
    while stack is not None:
        func = thread["frameTable"]["func"][thread["stackTable"]["frame"][stack]]
        names.insert(0, profile["shared"]["stringArray"][thread["funcTable"]["name"][func]])
        stack = thread["stackTable"]["prefix"][stack]
    return names


def test_threads_have_the_sums_of_the_report(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        profile = _read(recording)
    assert {thread["name"]: sum(thread["samples"]["weight"]) for thread in profile["threads"]} == {
        "in use": HEAP + 192 * MIB + 132 * 1024,
        "growth a minute": 48 * MIB,
        "allocated": HEAP + MIB + 7 * MIB + 11 * 4096 + 192 * MIB + 132 * 1024,
        "resident part of mappings": 96 * MIB + 132 * 1024,
        "blocks in use": 38 + 3072 + 1 + 4,
    }
    assert {thread["samples"]["weightType"] for thread in profile["threads"][:4]} == {"bytes"}


def test_sample_has_its_thread_functions_library_and_lines(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        profile = _read(recording)
    thread = profile["threads"][0]
    largest = thread["samples"]["weight"].index(38 * 16 * MIB)
    names = _names(profile, thread, largest)
    assert (names[0], names[1], names[-1], len(names)) == ("[nioEventLoop-1-1]", "start_thread", "malloc", 27)
    func = next(i for i, name in enumerate(thread["funcTable"]["name"])
                if profile["shared"]["stringArray"][name] == "os::malloc(unsigned long, MEMFLAGS)")  # fmt: skip
    assert profile["libs"][thread["resourceTable"]["lib"][thread["funcTable"]["resource"][func]]]["name"] == "libjvm.so"
    assert profile["shared"]["stringArray"][thread["funcTable"]["fileName"][func]] == "os.cpp"
    assert 735 in thread["frameTable"]["line"]


@pytest.mark.parametrize(("metric", "name"), [(Metric.COUNT, "blocks in use"), (Metric.GROWTH, "growth a minute")])
def test_metric_is_the_first_thread(tmp_path: Path, metric: Metric, name: str) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        assert _read(recording, metric=metric)["threads"][0]["name"] == name


def test_no_site_is_an_empty_thread(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.write_snapshot(fixtures.snapshot(1.0, ()))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        assert [thread["samples"]["length"] for thread in _read(recording)["threads"]] == [0]
