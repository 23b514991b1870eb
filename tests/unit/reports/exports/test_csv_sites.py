"""The table of call sites: read back by Python's own reader and by pandas."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

import recording_fixtures as fixtures
from nativeleak.model import Frame, Stack, ThreadInfo
from nativeleak.recording import RecordingWriter, open_recording
from nativeleak.reports.exports.columns import COLUMNS
from rendering import render, render_selected

MIB = fixtures.MIB


def test_table_has_every_site_and_its_sums(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        table = pd.read_csv(io.StringIO(render(recording, "csv")))
    assert tuple(table.columns) == tuple(COLUMNS)
    assert table["outstanding_bytes"].is_monotonic_decreasing
    assert table["outstanding_bytes"].sum() == 38 * 16 * MIB + 3 * MIB + 1009 + 192 * MIB + 132 * 1024
    assert table["freed_bytes"].sum() == MIB + 7 * MIB + 11 * 4096
    first = table.iloc[0]
    assert (first["head"], first["pool"], first["verdict"]) == ("Codec.decode", "nioEventLoop-*-*", "growing")
    assert (first["stack"].split(";")[0], first["stack"].split(";")[-1]) == ("start_thread", "malloc")
    assert pd.isna(first["resident_bytes"])


def test_names_of_the_target_run_in_no_spreadsheet(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks((Stack(1, (Frame('=cmd|" /C calc"!A0\n,x', "lib", 1, 1),)),))
        threads = (ThreadInfo(1, 0, 5, "@SUM(1,2)"),)
        writer.write_snapshot(fixtures.snapshot(1.0, (fixtures.heap_site(1, 1, (MIB, 1)),), threads=threads))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        rows = list(csv.DictReader(io.StringIO(render(recording, "csv"), newline="")))
    assert [row["thread"] for row in rows] == ["'@SUM(1,2)"]
    assert rows[0]["stack"] == '\'=cmd|" /C calc"!A0\\x0a,x'


def test_top_holds(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        assert len(render_selected(recording, "csv", top=2).splitlines()) == 3
