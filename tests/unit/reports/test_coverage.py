"""What an engine cannot see: reports state it from the recording, and of older recordings from their backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.model import Coverage, StackCoverage
from nativeleak.recording import open_recording
from nativeleak.reports.formats import WriteOptions
from rendering import render

OLD = Path(__file__).parent / "data" / "without_coverage"
"""Recordings of each backend, written before recordings said what their engine could see."""


@pytest.mark.parametrize(
    ("backend", "not_available", "hits"),
    [
        ("bpf-libbpf", "", "4,000 probe hits"),
        ("bpf-bcc", "Java frames", "4,000 probe hits"),
        ("strace", "single allocations and Java frames", "4,000 system calls read"),
        ("pmap", "call stacks, threads and single allocations", "4,000 readings of all mappings"),
    ],
)
def test_old_recording_states_what_its_backend_lacks(backend: str, not_available: str, hits: str) -> None:
    with open_recording(OLD / f"{backend}.nlk") as recording:
        text = " ".join(render(recording, "text", WriteOptions(detail=True)).split())
    assert (f"recorded with {backend}; not available: {not_available}" in text) == bool(not_available)
    assert ("not available" in text) == bool(not_available)
    assert hits in text


@pytest.mark.parametrize("backend", fixtures.BACKENDS)
def test_old_recording_gives_the_report_of_a_new_one(tmp_path: Path, backend: str) -> None:
    new = fixtures.write_of_backend(tmp_path / "new.nlk", backend)
    for format_name in ("json", "text", "folded"):
        with open_recording(OLD / f"{backend}.nlk") as before, open_recording(new) as after:
            old, new_one = render(before, format_name), render(after, format_name)
            assert old.replace(before.name, "FILE") == new_one.replace(after.name, "FILE")


@pytest.mark.parametrize("backend", fixtures.BACKENDS)
def test_old_recording_keeps_its_figures(backend: str) -> None:
    with open_recording(OLD / f"{backend}.nlk") as recording:
        report = json.loads(render(recording, "json"))
    heap, mapped = report["totals"]["heap"], report["totals"]["map"]
    is_bpf = backend.startswith("bpf-")
    assert heap["outstanding_bytes"] == (14 * 16 * fixtures.MIB + 3 * fixtures.MIB + 1009 if is_bpf else 0)
    assert mapped["outstanding_bytes"] == (198 if backend == "pmap" else 192) * fixtures.MIB
    assert (report["unmapped"] is None) == (not is_bpf)


def test_report_of_an_engine_it_has_never_heard_of_states_what_the_recording_says(tmp_path: Path) -> None:
    coverage = Coverage(
        StackCoverage.NONE, has_threads=False, has_unmappers=False, not_available="anything else", hits="ticks"
    )
    with fixtures.record(
        tmp_path / "a.nlk",
        lambda w: w.write_snapshot(fixtures.snapshot(1.0, [fixtures.map_site(0, 77, (4096, 1))], probe_hits=13)),
        backend="dtrace",
        coverage=coverage,
    ) as recording:
        report = json.loads(render(recording, "json"))
        text = " ".join(render(recording, "text", WriteOptions(detail=True)).split())
    assert (report["sites"][0]["frames"], report["unmapped"]) == ([], None)
    assert "recorded with dtrace; not available: anything else" in text
    assert "13 ticks; " in text
