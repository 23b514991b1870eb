"""Who holds the blocks of a finding, as a look after the trace put it into the recording."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from nativeleak.analysis.select import By, Selection
from nativeleak.errors import RecordingError
from nativeleak.model import BlockFate, Look, SiteFate, Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.recording.fates import add_look
from nativeleak.recording.moment import RecordingAt
from nativeleak.reports import diff_formats
from nativeleak.reports.diff import DiffMetric, compare
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.html.diff_page import render_html
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.render import write_merged
from recording_fixtures import heap_site, native, snapshot, target, trace_info
from rendering import render

KEEPS, LOSES = 1 << 63 | 1, 2


def _record(path: Path, *, grows: bool) -> Path:
    """Two call paths; the second one allocates with each snapshot, or both of them only at first."""
    with RecordingWriter(path, trace_info(), targets=[target()]) as writer:
        writer.add_stacks([Stack(KEEPS, (native("keeps", "app"),)), Stack(LOSES, (native("loses", "app"),))])
        for second in range(1, 31):
            n = 20 * second if grows else 20
            writer.write_snapshot(
                snapshot(60.0 * second, [heap_site(1, KEEPS, (4096, 4)), heap_site(1, LOSES, (4096 * n, n))])
            )
        writer.finish("duration", 1800.0)
    return path


def _with_look(path: Path, look: Look, fates: Sequence[SiteFate] = ()) -> Recording:
    add_look(path, look, fates)
    return open_recording(path)


FATES = (
    SiteFate(0, 1, KEEPS, BlockFate(4, 4, 0, 0, (("g_kept in app", 3), ("thread b", 1)))),
    SiteFate(0, 1, LOSES, BlockFate(600, 400, 300, 300 * 4096, (("g_mixed in app", 100),))),
)


def test_a_suspect_says_that_its_blocks_are_lost_and_who_holds_the_others(tmp_path: Path) -> None:
    with _with_look(_record(tmp_path / "a.nlk", grows=True), Look(0, 1.5, "proven"), FATES) as recording:
        text, facts = render(recording, "text"), json.loads(render(recording, "json"))
    assert "600 blocks of 4 KiB; leak, proven: 75 % of its blocks unreachable, the others held by g_mixed in app" in (
        " ".join(text.split())
    )
    assert len(text.splitlines()) <= 40
    assert [(each["name"], each["traced"]["lost_pct"], each["traced"]["certainty"]) for each in facts["suspects"]] == [
        ("loses", 75.0, "proven")
    ]
    assert facts["looks"] == [
        {"process": 5687, "after_s": 1.5, "certainty": "proven", "blocks_unlisted": 0, "why_not": None}
    ]


@pytest.mark.parametrize(
    ("certainty", "n_lost", "is_sure"), [("proven", 400, True), ("proven", 399, False), ("likely", 400, False)]
)
def test_only_where_all_is_proven_lost_no_cache_looks_the_same(
    tmp_path: Path, certainty: str, n_lost: int, is_sure: bool
) -> None:
    fates = (SiteFate(0, 1, LOSES, BlockFate(600, 400, n_lost, n_lost * 4096)),)
    with _with_look(_record(tmp_path / "a.nlk", grows=True), Look(0, 1.5, certainty), fates) as recording:
        for form in ("text", "html"):
            assert ("to fill looks the same" not in render(recording, form)) == is_sure


def test_lost_blocks_are_a_leak_also_where_nothing_grows(tmp_path: Path) -> None:
    with _with_look(_record(tmp_path / "a.nlk", grows=False), Look(0, 1.5, "likely"), FATES) as recording:
        text = render(recording, "text")
    assert "LEAK, likely: no pointer leads to 300 blocks, 1.2 MiB, of loses\n" in text
    assert "held by g_kept in app and others" in " ".join(text.split())
    assert "NO GROWTH SEEN" in text
    assert "NO LEAK SEEN" not in text


def test_the_report_says_why_no_holders_are_known(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.nlk", grows=True)
    with _with_look(path, Look(0, 1.5, why_not="java (PID 5687) ended during the trace")) as recording:
        text, facts = render(recording, "text"), json.loads(render(recording, "json"))
        assert "Holders: java (PID 5687) ended during the trace" in render(recording, "html")
    assert "holders: java (PID 5687) ended during the trace" in text
    assert "traced" not in facts["suspects"][0]
    assert facts["looks"][0]["why_not"] == "java (PID 5687) ended during the trace"


def test_a_second_look_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.nlk", grows=True)
    add_look(path, Look(0, 1.5, "proven"), FATES)
    with _with_look(path, Look(0, 9.0, "proven"), FATES[:1]) as recording:
        assert (recording.looks, recording.fates()) == ((Look(0, 9.0, "proven"),), [FATES[0]])
        assert RecordingAt(recording, 3).looks == ()
        assert RecordingAt(recording, 29).looks == recording.looks


def test_a_recording_of_before_these_tables_has_no_looks(tmp_path: Path) -> None:
    import sqlite3

    path = _record(tmp_path / "a.nlk", grows=True)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE looks")
        db.execute("DROP TABLE fates")
    with open_recording(path) as recording:
        assert (recording.looks, recording.fates()) == ((), [])
        assert "looks" not in json.loads(render(recording, "json"))
    with _with_look(path, Look(0, 1.5, "proven"), FATES) as recording:
        assert len(recording.fates()) == 2


def test_others_journals_are_not_used_where_others_may_write(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.nlk", grows=True)
    tmp_path.chmod(0o777)
    add_look(path, Look(0, 1.5, "proven"), FATES)
    assert [each.name for each in tmp_path.iterdir()] == ["a.nlk"]
    path.with_name("a.nlk-journal").write_bytes(b"planted")
    with pytest.raises(RecordingError, match=r"adding to .*a\.nlk failed: File exists"):
        add_look(path, Look(0, 2.5, "proven"))
    link = tmp_path / "link.nlk"
    link.symlink_to(path)
    with pytest.raises(RecordingError, match="it is no regular file"):
        add_look(link, Look(0, 2.5, "proven"))


def _sites(found: dict[str, BlockFate]) -> tuple[SiteFate, ...]:
    return tuple(SiteFate(0, 1, {"keeps": KEEPS, "loses": LOSES}[name], fate) for name, fate in found.items())


def _merged(files: Sequence[Path], form: str, by: By | None = None) -> str:
    stream = io.BytesIO()
    write_merged(list(files), stream, find_format(form), Selection(by=by), WriteOptions())
    return stream.getvalue().decode()


HELD_COLUMNS = (
    "recorded_blocks", "blocks_in_use", "lost_blocks", "lost_bytes", "lost_certainty", "held_by", "held_by_blocks"
)  # fmt: skip


def _held_cells(row: dict[str, str]) -> list[str]:
    return [row[name] for name in HELD_COLUMNS]


def test_csv_has_what_became_of_the_blocks_in_its_last_columns(tmp_path: Path) -> None:
    with _with_look(_record(tmp_path / "a.nlk", grows=True), Look(0, 1.5, "proven"), FATES) as recording:
        table = csv.DictReader(io.StringIO(render(recording, "csv")))
        rows = {row["head"]: row for row in table}
    assert tuple((table.fieldnames or ())[-8:]) == ("stack", *HELD_COLUMNS)
    assert _held_cells(rows["keeps"]) == ["4", "4", "0", "0", "", "g_kept in app", "3"]
    assert _held_cells(rows["loses"]) == ["600", "400", "300", str(300 * 4096), "proven", "g_mixed in app", "100"]


def test_csv_without_a_look_leaves_these_columns_empty(tmp_path: Path) -> None:
    with open_recording(_record(tmp_path / "a.nlk", grows=False)) as recording:
        rows = list(csv.DictReader(io.StringIO(render(recording, "csv"))))
    assert [_held_cells(row) for row in rows] == 2 * [[""] * 7]


def test_a_report_of_many_keeps_each_look_and_adds_up_what_became_of_the_blocks(tmp_path: Path) -> None:
    looks = {"a": Look(0, 1.5, "proven"), "b": Look(0, 2.5, "likely"), "c": Look(0, 0.0, why_not="it ended")}
    files = [_record(tmp_path / f"{name}.nlk", grows=True) for name in "abcd"]
    for path, look in zip(files[:3], looks.values(), strict=True):
        add_look(path, look, FATES if look.certainty else ())
    report = json.loads(_merged(files, "json"))
    kept = [
        [(each["certainty"], each["why_not"]) for each in source.get("looks", [])] for source in report["recordings"]
    ]
    assert kept == [[("proven", None)], [("likely", None)], [(None, "it ended")], []]
    traced = {report["frames"][row["path"][0]]["function"]: row.get("traced") for row in report["rows"]}
    lost = traced["loses"]
    assert (lost["recorded_blocks"], lost["blocks_in_use"], lost["lost_blocks"]) == (1200, 800, 600)
    assert (lost["lost_bytes"], lost["certainty"]) == (600 * 4096, "likely")
    assert traced["keeps"]["held_by"] == [
        {"holder": "g_kept in app", "blocks": 6}, {"holder": "thread b", "blocks": 2}
    ]  # fmt: skip
    rows = {row["head"]: row for row in csv.DictReader(io.StringIO(_merged(files, "csv", By.PROCESS)))}
    assert _held_cells(rows["loses"]) == ["1200", "800", "600", str(600 * 4096), "likely", "g_mixed in app", "200"]
    only = json.loads(_merged(files[:1], "json"))
    assert [row["traced"]["certainty"] for row in only["rows"] if row["traced"]["lost_blocks"]] == ["proven"]
    for form in ("text", "html"):
        text = " ".join(_merged(files, form).split())
        assert "leak, likely: 75 % of its blocks unreachable, the others held by g_mixed in app" in text
        assert "Who holds the blocks was looked for after 3 recordings, not after the others." in text
        assert "Who holds the blocks of 1 recording is not known: it ended." in text


def test_diff_says_where_unreachable_blocks_and_holders_changed(tmp_path: Path) -> None:
    before, after = (_record(tmp_path / f"{name}.nlk", grows=True) for name in ("before", "after"))
    kept, listed = (BlockFate(n, n, 0, 0, ((name, n),)) for name, n in (("g_kept in app", 4), ("g_list in app", 600)))
    add_look(before, Look(0, 1.0), _sites({"keeps": kept, "loses": listed}))
    lost = BlockFate(600, 400, 400, 400 * 4096)
    add_look(after, Look(0, 1.0, "proven"), _sites({"keeps": kept, "loses": lost}))
    with open_recording(before) as old, open_recording(after) as new:
        diff, same = compare(old, new), compare(old, old)
    text = diff_formats.text(diff, DiffMetric.OUTSTANDING, None)
    table = text[text.index("Blocks that no pointer leads to, and holders, where they changed") :].splitlines()
    assert [" ".join(line.split()) for line in table[2:]] == [
        "unreachable 0 % 100 % heap loses", "held by g_list in app before, nobody after"
    ]  # fmt: skip
    page = " ".join(re.sub("<[^>]*>", " ", render_html(diff, DiffMetric.OUTSTANDING, None, Redactor())).split())
    assert "0 % 100 % g_list in app before, nobody after heap loses" in page
    facts = json.loads(diff_formats.as_json(diff, DiffMetric.OUTSTANDING, None))
    (changed,) = facts["traced_changes"]
    assert (changed["function"], changed["before"]["lost_blocks"], changed["after"]["lost_blocks"]) == ("loses", 0, 400)
    assert changed["after"]["certainty"] == "proven"
    assert facts["after"]["looks"][0]["certainty"] == "proven"
    assert "where they changed" not in diff_formats.text(same, DiffMetric.OUTSTANDING, None)


def test_diff_with_one_look_says_that_it_is_not_compared(tmp_path: Path) -> None:
    before, after = (_record(tmp_path / f"{name}.nlk", grows=True) for name in ("before", "after"))
    add_look(after, Look(0, 1.0, "proven"), FATES)
    with open_recording(before) as old, open_recording(after) as new:
        text = diff_formats.text(compare(old, new), DiffMetric.OUTSTANDING, None)
        then = diff_formats.text(compare(RecordingAt(new, 3), new), DiffMetric.OUTSTANDING, None)
    assert "Who holds the blocks is known of AFTER alone, and is not compared." in text
    assert "where they changed" not in text + then
