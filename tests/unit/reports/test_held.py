"""Who holds the blocks of a finding, as a look after the trace put it into the recording."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nativeleak.errors import RecordingError
from nativeleak.model import BlockFate, Look, SiteFate, Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.recording.fates import add_look
from nativeleak.recording.moment import RecordingAt
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
