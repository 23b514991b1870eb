"""Walks of the heap before and after a trace, beside what its call sites hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nativeleak.model import HeapCensus, InUse, Level, Stack, Window
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.recording.fates import add_census
from recording_fixtures import heap_site, native, snapshot, target, trace_info
from rendering import render

STARTED = 1_700_000_000.0
N, N_BYTES = 1000, 64_000
BEFORE = InUse(20_000, 5_000_000, 0)
WHOLE = (Window(0.0, 600.0, Level.EXACT, probe_hits=7),)


def record(path: Path, *censuses: HeapCensus, windows: tuple[Window, ...] = WHOLE) -> Recording:
    """A trace of ten minutes whose call site holds a thousand blocks at the end."""
    with RecordingWriter(path, trace_info(), targets=[target()]) as writer:
        writer.add_stacks([Stack(1, (native("keeps", "app"),))])
        for minute in (1, 10):
            sites = [heap_site(1, 1, (N_BYTES * minute // 10, N * minute // 10))]
            writer.write_snapshot(snapshot(60.0 * minute, sites, windows=windows, probe_hits=7))
        writer.finish("duration", 600.0)
    if censuses:
        add_census(path, censuses)
    return open_recording(path)


def census(grown: int, *, apart_s: float = 0.0) -> HeapCensus:
    """Walks between which so many blocks came; the trace lasts 600 s of the time between them."""
    after = InUse(BEFORE.n_blocks + grown, BEFORE.n_bytes + 80 * grown, 0)
    return HeapCensus(0, BEFORE, after, "", STARTED, STARTED + 600.0 + apart_s)


def said(recording: Recording) -> str:
    """The line of the text report."""
    words = " ".join(render(recording, "text").split())
    return words.partition("Heap walk ")[2].partition(" Watched ")[0]


@pytest.mark.parametrize(
    ("grown", "apart_s", "text"),
    [
        (1000, 0.0, "hold 1,000 blocks, 62.5 KiB: all of it"),
        (1009, 0.0, "hold 1,000 blocks, 62.5 KiB: all of it"),
        (1060, 20.0, "and the others fit into the 20s that the walks lie further apart"),
        (1060, 0.0, "hold 1,000 blocks, 62.5 KiB: 60 blocks were allocated unseen"),
        (3000, 20.0, "2,000 blocks were allocated unseen"),
        (400, 0.0, "hold 1,000 blocks, 62.5 KiB; 600 from before the trace were freed"),
        (-50, 0.0, "-50 blocks in use, -3.9 KiB, by walks before and after; call sites hold 1,000 blocks"),
    ],
)
def test_growth_by_walks_is_held_against_what_call_sites_hold(
    tmp_path: Path, grown: int, apart_s: float, text: str
) -> None:
    with record(tmp_path / "a.nlk", census(grown, apart_s=apart_s)) as recording:
        assert text in said(recording)


def test_nothing_is_called_unseen_where_not_all_was_watched(tmp_path: Path) -> None:
    windows = (*WHOLE, Window(0.0, 600.0, Level.SYSCALLS, 0))
    with record(tmp_path / "a.nlk", census(3000), windows=windows) as recording:
        assert said(recording).endswith("call sites hold 1,000 blocks, 62.5 KiB")


def test_a_walk_that_failed_is_said_with_its_reason(tmp_path: Path) -> None:
    with record(tmp_path / "a.nlk", HeapCensus(0, BEFORE, None, "the process ended")) as recording:
        assert said(recording) == "not known: the process ended"
        (row,) = json.loads(render(recording, "json"))["census"]
    assert (row["before"], row["after"], row["why_not"]) == (None, None, "the process ended")


def test_json_has_both_walks_and_what_call_sites_hold(tmp_path: Path) -> None:
    with record(tmp_path / "a.nlk", census(1000)) as recording:
        (row,) = json.loads(render(recording, "json"))["census"]
    assert row == {
        "process": 5687,
        "before": {"blocks": 20_000, "bytes": 5_000_000, "unread_bytes": 0},
        "after": {"blocks": 21_000, "bytes": 5_080_000, "unread_bytes": 0},
        "outstanding_blocks": N,
        "outstanding_bytes": N_BYTES,
        "why_not": None,
    }


def test_a_recording_without_walks_says_nothing_of_them(tmp_path: Path) -> None:
    with record(tmp_path / "a.nlk") as recording:
        assert said(recording) == ""
        assert "census" not in json.loads(render(recording, "json"))
