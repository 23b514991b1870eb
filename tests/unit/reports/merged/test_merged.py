"""One report of many recordings: figures of each row against those that the recordings were made with."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.errors import RecordingError
from nativeleak.recording import RecordingWriter, open_recording
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.merged import gather
from nativeleak.reports.render import write_merged
from profile_reader import read_profile

MIB = fixtures.MIB
CHUNKS = 38 * 16 * MIB
"""What the leak of one gateway holds after 12 minutes; it gains 48 MiB a minute."""
ALL = CHUNKS + 3 * MIB + 1009 + 192 * MIB + 132 * 1024


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Two processes of one host, one of another."""
    return [
        fixtures.write_of_process(tmp_path / f"{host}-{pid}.nlk", host, pid)
        for host, pid in (("alder", 101), ("alder", 103), ("birch", 101))
    ]


def _render(files: list[Path], format_name: str, at: str | None = None, **selection: Any) -> bytes:
    stream = io.BytesIO()
    write_merged(files, stream, find_format(format_name), Selection(**selection), WriteOptions(), at)
    return stream.getvalue()


def _json(files: list[Path], at: str | None = None, **selection: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(_render(files, "json", at, **selection))
    return report


def _chunks(report: dict[str, Any]) -> list[dict[str, Any]]:
    frames = [frame["function"] for frame in report["frames"]]
    return [row for row in report["rows"] if any("newChunk" in frames[i] for i in row["path"])]


def _per_minute(growth: dict[str, Any]) -> list[int]:
    return [round(each * 60) for each in (growth["slope_bytes_per_s"], *growth["ci95"])]


def test_paths_of_hosts_and_processes_are_one_row(three: list[Path]) -> None:
    report = _json(three)
    (row,) = _chunks(report)
    assert (row["outstanding_bytes"], row["outstanding_count"]) == (3 * (CHUNKS + 1009), 3 * 39)
    assert (row["n_hosts"], row["n_processes"]) == (2, 3)
    assert _per_minute(row["growth"]) == [144 * MIB] * 3
    totals = report["totals"]
    assert sum(totals[kind]["outstanding_bytes"] for kind in totals) == 3 * ALL
    assert sum(each["outstanding_bytes"] for each in report["rows"]) == 3 * ALL
    assert report["notes"] == []


def test_hosts_and_processes_have_their_own_sums(three: list[Path]) -> None:
    report = _json(three)
    assert [(each["host"], each["outstanding_bytes"], each["processes"]) for each in report["hosts"]] == [
        ("alder", 2 * ALL, 2),
        ("birch", ALL, 1),
    ]
    assert [(each["host"], each["pid"], each["outstanding_bytes"]) for each in report["processes"]] == [
        ("alder", 101, ALL),
        ("alder", 103, ALL),
        ("birch", 101, ALL),
    ]
    assert [_per_minute(each["growth"])[0] for each in report["hosts"]] == [96 * MIB, 48 * MIB]


def test_rows_by_host_and_by_process_keep_them_apart(three: list[Path]) -> None:
    hosts = _chunks(_json(three, by=By.HOST))
    assert [(row["host"], row["outstanding_bytes"], row["n_processes"]) for row in hosts] == [
        ("alder", 2 * (CHUNKS + 1009), 2),
        ("birch", CHUNKS + 1009, 1),
    ]
    processes = [row for row in _chunks(_json(three, by=By.PROCESS)) if row["threads"] == "nioEventLoop-*-*"]
    assert [(row["host"], row["pid"], row["comm"], row["outstanding_bytes"]) for row in processes] == [
        ("alder", 101, "java", CHUNKS),
        ("alder", 103, "java", CHUNKS),
        ("birch", 101, "java", CHUNKS),
    ]


def test_hours_of_one_process_have_its_mean_growth(tmp_path: Path) -> None:
    files = [fixtures.write_of_process(tmp_path / f"{hour}.nlk", "alder", 101, hour) for hour in (0, 1)]
    report = _json(files)
    (row,) = _chunks(report)
    assert (row["n_hosts"], row["n_processes"]) == (1, 1)
    assert _per_minute(row["growth"]) == [48 * MIB] * 3
    assert [each["recordings"] for each in report["processes"]] == [[0, 1]]
    assert ["an earlier one may be freed" in note for note in report["notes"]] == [True]
    again = fixtures.write_of_process(tmp_path / "again.nlk", "alder", 101)
    assert any("overlap in time" in note for note in _json([*files, again])["notes"])


def test_growth_of_a_short_recording_is_not_known(tmp_path: Path) -> None:
    short = fixtures.write_of_process(tmp_path / "short.nlk", "alder", 101, n_snapshots=2)
    whole = fixtures.write_of_process(tmp_path / "whole.nlk", "birch", 101)
    report = _json([short, whole])
    assert [each["growth"] for each in report["processes"] if each["host"] == "alder"] == [None]
    assert _per_minute(_chunks(report)[0]["growth"])[0] == 48 * MIB
    assert any("Growth is not known of 1 recording" in note for note in report["notes"])
    assert _json([short, tmp_path / "none.nlk"])["growth"] is None
    rows = list(csv.DictReader(io.StringIO(_render([short, whole], "csv").decode())))
    assert {row["growth_bytes_per_s"] == "" for row in rows if row["host"] == "alder"} == {True}
    assert {row["growth_bytes_per_s"] == "" for row in rows if row["host"] == "birch"} == {False}
    for name in ("folded", "speedscope", "firefox", "pprof", "otlp"):
        assert _render([short, whole], name, metric=Metric.GROWTH)


def test_a_file_by_two_names_counts_once(three: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(three[0])
    assert len(_json([three[0], link, three[2]])["recordings"]) == 2


def test_readers_side_by_side_find_the_same(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = _json(three, by=By.PROCESS)
    monkeypatch.setattr(gather, "_FEW", 1)
    monkeypatch.setattr(gather, "_SHARE", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert _json(three, by=By.PROCESS) == alone


def test_filters_and_moments_hold(three: list[Path]) -> None:
    assert {row["kind"] for row in _json(three, function="load_index|main")["rows"]} == {"heap", "map", "brk"}
    assert _json(three, function="newChunk")["totals"]["heap"]["outstanding_bytes"] == 3 * (CHUNKS + 1009)
    assert _json(three, thread="nioEventLoop*")["totals"]["heap"]["outstanding_bytes"] == 3 * CHUNKS
    assert _json(three, thread="1860")["totals"]["heap"]["outstanding_bytes"] == 3 * CHUNKS
    assert _chunks(_json(three, at="2m"))[0]["outstanding_bytes"] == 3 * (8 * 16 * MIB + 1009)
    rows = _json(three, metric=Metric.COUNT, min_bytes=4 * MIB, top=1)["rows"]
    assert [row["outstanding_count"] for row in rows] == [3 * 3072]


def test_table_has_host_and_process_of_each_row(three: list[Path]) -> None:
    rows = list(csv.DictReader(io.StringIO(_render(three, "csv").decode())))
    sums: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = row["host"], row["process"], row["pid"]
        sums[key] = sums.get(key, 0) + int(row["outstanding_bytes"])
    assert sums == {("alder", "java", "101"): ALL, ("alder", "java", "103"): ALL, ("birch", "java", "101"): ALL}
    (merged,) = [row for row in csv.DictReader(io.StringIO(_render(three, "csv", by=By.PATH).decode()))
                 if "newChunk" in row["stack"]]  # fmt: skip
    assert (merged["host"], merged["process"], merged["pid"], merged["n_threads"]) == ("*", "*", "", "")


def test_profile_has_host_and_process_as_labels(three: list[Path]) -> None:
    profile = read_profile(_render(three, "pprof"))
    held: dict[tuple[str, str], int] = {}
    for sample in profile.samples:
        if sample.labels:
            key = sample.labels["host"], sample.labels["pid"]
            held[key] = held.get(key, 0) + sample.values["inuse_space"]
    assert held == {("alder", "101"): ALL, ("alder", "103"): ALL, ("birch", "101"): ALL}
    assert sum(sample.values["alloc_space"] for sample in profile.samples) == 3 * (ALL + 8 * MIB + 11 * 4096)


def test_text_page_and_folded_say_the_same(three: list[Path]) -> None:
    text = _render(three, "text").decode()
    assert text.startswith("3 recordings of 3 processes on 2 hosts \N{MIDDLE DOT} ")
    assert re.search(r"^Growth +\+144(\.0)? MiB/min", text, re.MULTILINE)
    assert "java (PID 103) on alder" in text
    page = _render(three, "html").decode()
    assert "3 recordings of 3 processes on 2 hosts" in page
    assert "<script" not in page
    lines = dict(line.rsplit(" ", 1) for line in _render(three, "folded").decode().splitlines())
    (leak,) = [int(value) for stack, value in lines.items() if stack.startswith("nioEventLoop-*-*;")]
    assert leak == 3 * CHUNKS
    assert sum(map(int, lines.values())) == 3 * ALL


def test_names_of_a_recording_are_escaped(tmp_path: Path) -> None:
    files = [fixtures.write_of_process(tmp_path / f"{i}.nlk", "<b>\x1b[31m", i) for i in (1, 2)]
    assert "\x1b" not in _render(files, "text").decode()
    assert "<b>" not in _render(files, "html").decode()


@pytest.mark.parametrize("change", ["UPDATE stacks SET frames = x'ffff0000'", "UPDATE stacks SET frames = x'00'"])
def test_damaged_stacks_are_named_and_the_others_reported(three: list[Path], change: str) -> None:
    with sqlite3.connect(three[1]) as db:
        db.execute(change)
    db.close()
    report = _json(three)
    assert [each["file"] for each in report["failed"]] == [str(three[1])]
    assert "the recording is damaged" in report["failed"][0]["why"]
    assert len(report["recordings"]) == 2


def test_sites_and_times_that_no_trace_has_are_reported_all_the_same(three: list[Path]) -> None:
    with sqlite3.connect(three[0]) as db:
        db.execute("UPDATE sites SET slot = 4294967295 WHERE id = 0")
        db.execute("UPDATE trace SET value = '2.4e11' WHERE name = 'started'")
        db.execute("UPDATE snapshots SET elapsed_s = 1e16 WHERE id = (SELECT max(id) FROM snapshots)")
    db.close()
    report = _json(three)
    assert [(each["comm"], each["pid"]) for each in report["processes"]].count(("[unknown process]", 0)) == 1
    assert sum(each["outstanding_bytes"] for each in report["processes"]) == 3 * ALL
    assert _render(three, "text")


def test_host_without_a_name_is_its_boot(tmp_path: Path) -> None:
    path = fixtures.write_of_process(tmp_path / "old.nlk", "alder", 101)
    with open_recording(path) as recording:
        assert recording.info.host == "alder"
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM trace WHERE name = 'host'")
    db.close()
    with open_recording(path) as recording:
        assert (recording.info.host, recording.info.host_name) == ("", "boot alder-01")


def test_no_readable_recording_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        _render([tmp_path / "a.nlk", tmp_path / "b.nlk"], "text")


def test_recordings_without_sites_are_empty_rows(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.write_snapshot(fixtures.snapshot(1.0, ()))

    files = [tmp_path / f"{name}.nlk" for name in "ab"]
    for file in files:
        fixtures.record(file, write).close()
    assert (_json(files)["rows"], _json(files)["hosts"]) == ([], [])
    for name in ("text", "html", "csv", "folded", "pprof", "speedscope"):
        assert _render(files, name) or name == "folded"
