"""Metrics for Prometheus: the text format, and the rules of promtool's check."""

from __future__ import annotations

import re
from pathlib import Path

import recording_fixtures as fixtures
from nativeleak.model import Frame, Level, Stack, Window
from nativeleak.recording import RecordingWriter, open_recording
from rendering import render, render_selected

MIB = fixtures.MIB
_LINE = re.compile(r"([a-z][a-z0-9_]*)\{((?:[a-z]+=\"(?:[^\"\\\n]|\\[\\\"n])*\",?)+)\} ([0-9.e+-]+)")
_LABEL = re.compile(r"([a-z]+)=\"((?:[^\"\\]|\\.)*)\"")
Samples = dict[str, list[tuple[dict[str, str], float]]]


def _parse(text: str) -> Samples:
    """Samples by metric; each metric has its help and type before it, and no series is there twice."""
    found: Samples = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert re.fullmatch(r"# HELP [a-z][a-z0-9_]* .+", line)
            continue
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert kind == "gauge"
            assert name not in found
            # promtool refuses these in the name of a gauge.
            assert not name.endswith(("_count", "_sum", "_bucket", "_total", "_counter", "_gauge"))
            found[name] = []
            continue
        match = _LINE.fullmatch(line)
        assert match, line
        labels = dict(_LABEL.findall(match[2]))
        assert labels not in [known for known, _ in found[match[1]]]
        found[match[1]].append((labels, float(match[3])))
    return found


def test_values_are_those_of_the_report(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk", lost_bytes=77)) as recording:
        found = _parse(render(recording, "prometheus"))
    of_trace = {"pid": "5687", "comm": "java"}
    assert found["nativeleak_outstanding_bytes"] == [
        ({**of_trace, "kind": "heap"}, 38 * 16 * MIB + 3 * MIB + 1009),
        ({**of_trace, "kind": "map"}, 192 * MIB),
        ({**of_trace, "kind": "brk"}, 132 * 1024),
    ]
    assert found["nativeleak_resident_bytes"] == [(of_trace, 3550 * MIB)]
    assert ({**of_trace, "counter": "lost_bytes"}, 77.0) in found["nativeleak_completeness"]
    labels, value = found["nativeleak_site_outstanding_bytes"][0]
    assert (labels["function"], value) == ("Codec.decode", 38 * 16 * MIB + 1009)
    grown = {labels["bound"]: value for labels, value in found["nativeleak_site_growth_bytes_per_second"][:3]}
    assert grown == {"mean": 838860.8, "low": 838860.8, "high": 838860.8}


def test_top_bounds_the_series(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        found = _parse(render_selected(recording, "prometheus", top=2))
    assert len(found["nativeleak_site_outstanding_bytes"]) == 2


def test_what_was_not_watched_has_no_sample(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        for minute in range(3):
            window = Window(0.0, 60.0 * minute + 1, Level.SYSCALLS)
            writer.write_snapshot(fixtures.snapshot(60.0 * minute + 1, fixtures.gateway_sites(0), windows=(window,)))

    with open_recording(fixtures.write_of_backend(tmp_path / "a.nlk", "pmap")) as recording:
        assert "nativeleak_watched_ratio" not in _parse(render(recording, "prometheus"))
    with fixtures.record(tmp_path / "b.nlk", write) as recording:
        found = _parse(render(recording, "prometheus"))
    assert [value for _, value in found["nativeleak_watched_ratio"]] == [0.0]
    assert "nativeleak_growth_bytes_per_second" not in found


def test_names_of_the_target_stay_within_their_label(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks((Stack(1, (Frame('ev"}1\\\nHELP', "lib", 1, 1),)),))
        writer.write_snapshot(fixtures.snapshot(1.0, (fixtures.heap_site(1, 1, (MIB, 1)),), threads=fixtures.THREADS))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        found = _parse(render(recording, "prometheus"))
    assert found["nativeleak_site_outstanding_bytes"][0][0]["function"] == r"ev\"}1\\\\x0aHELP"
