"""Recordings that were sampled, or watched in more than one way: kept whole, and said in words."""

from __future__ import annotations

import json
from pathlib import Path

import recording_fixtures as fixtures
from nativeleak.model import CERTAIN, Level, Uncertainty, Window
from nativeleak.recording import Recording, RecordingWriter
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.text_windows import two_digits
from rendering import render

WINDOWS = (
    Window(0.0, 30.0, Level.EXACT, 0, 1009, 0.25, 20.0),
    Window(30.0, 45.5, Level.SAMPLED, 524288, 307, 0.125, 10.0),
    Window(45.5, 60.0, Level.SYSCALLS),
)
UNCERTAIN = Uncertainty(100, 4e10, 250_000.0)


def _write(writer: RecordingWriter) -> None:
    exact = fixtures.heap_site(1, 11, (4096, 2))
    sampled = fixtures.heap_site(1, 12, (1 << 21, 5000), uncertainty=UNCERTAIN)
    lost = fixtures.counters(uncertain_bytes=1 << 20, uncertain_allocations=1013, unsampled_frees=211)
    writer.write_snapshot(fixtures.snapshot(30.0, (exact,), windows=WINDOWS[:1]))
    writer.write_snapshot(fixtures.snapshot(60.0, (exact, sampled), windows=WINDOWS, counters=lost))


def _recording(tmp_path: Path) -> Recording:
    return fixtures.record(tmp_path / "a.nlk", _write)


def test_windows_and_uncertainty_are_read_as_they_were_written(tmp_path: Path) -> None:
    with _recording(tmp_path) as recording:
        assert recording.windows == WINDOWS
        assert [site.uncertainty for site in recording.sites] == [CERTAIN, UNCERTAIN]


def test_text_has_the_range_of_distances_that_the_budget_chose(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        windows = (*WINDOWS[:2], Window(45.5, 60.0, Level.SAMPLED, 1024, 307, 0.125, 10.0))
        sampled = fixtures.heap_site(1, 12, (1 << 21, 5000), uncertainty=UNCERTAIN)
        writer.write_snapshot(fixtures.snapshot(60.0, (sampled,), windows=windows))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text", WriteOptions(detail=True)).split())
    assert "one block per 1 KiB to 512 KiB on average" in text


def test_json_has_windows_bounds_and_the_cost_of_all_windows(tmp_path: Path) -> None:
    with _recording(tmp_path) as recording:
        report = json.loads(render(recording, "json"))
    assert [(w["from_s"], w["to_s"], w["level"], w["sample_bytes"]) for w in report["mode"]["windows"]] == [
        (0.0, 30.0, "exact", 0),
        (30.0, 45.5, "sampled", 524288),
        (45.5, 60.0, "syscalls", 0),
    ]
    assert report["mode"]["sampled"] is True
    assert report["mode"]["sample_bytes"] == 524288
    by_bytes = {site["outstanding_bytes"]: site for site in report["sites"]}
    assert "sampling" not in by_bytes[4096]
    low, high = by_bytes[1 << 21]["sampling"]["outstanding_bytes_ci95"]
    assert low < 1 << 21 < high
    assert by_bytes[1 << 21]["sampling"]["blocks"] == 100
    assert report["totals"]["heap"]["sampling"]["blocks"] == 100
    assert "sampling" not in report["totals"]["map"]
    assert report["completeness"]["sampling_error_bytes"] > 0
    assert report["overhead"]["estimated_cost_s"] == 0.375


def test_text_says_which_part_was_not_recorded_and_what_became_uncertain(tmp_path: Path) -> None:
    with _recording(tmp_path) as recording:
        text = " ".join(render(recording, "text", WriteOptions(detail=True)).split())
    assert "malloc was watched for 46s of 1m 00s, to stay within --max-overhead or --max-memory" in text
    assert "recording all takes 1 % of a core: --max-overhead off --duration 5s" in text
    assert "1 MiB in 1,013 outstanding heap blocks may have been freed while frees were not watched" in text
    assert "heap totals are estimates from samples, one block per 512 KiB on average" in text
    assert "95 % confidence, from 100 blocks" in text
    assert "211 frees were of blocks that were not sampled" in text


def test_times_without_probes_are_the_first_losses_and_many_are_summed_up(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        for i in range(8):
            writer.add_event(
                float(i), "blind", f"3 probes of malloc in libc.so.6 were gone between {i}.0 s and {i}.5 s"
            )
        site = fixtures.heap_site(1, 11, (4096, 2))
        writer.write_snapshot(fixtures.snapshot(30.0, (site,), counters=fixtures.counters(probes_lost=24)))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text", WriteOptions(detail=True)).split())
        report = json.loads(render(recording, "json"))
    head, _, text_below = text.partition("Threads that hold")
    assert "and 2 more losses (--all)" in head
    assert "were gone between 3.0 s and 3.5 s" in head
    head = text_below
    assert "were gone between 4.0 s and 4.5 s" in head
    assert "were gone between 5.0 s" not in text
    assert "probes were gone from the target 3 more times, 24 probes in all" in head
    assert "Nothing was lost" not in text
    assert report["completeness"]["probes_lost"] == 24
    assert sum(note["what"] == "blind" for note in report["notes"]) == 8


def test_shares_of_calls_have_two_digits_and_no_exponent() -> None:
    assert [two_digits(each) for each in (0.2083, 3.14, 12.5, 100.0)] == ["0.21", "3.1", "12", "100"]


def test_text_says_for_how_long_rare_call_sites_were_watched(tmp_path: Path) -> None:
    parts = (
        *(Window(10.0 * n, 10.0 * n + 0.05, Level.EXACT, 0, 1009, 0.01, 0.05) for n in range(3)),
        Window(30.0, 40.0, Level.HOT, 0, 101, 0.001, 10.0),
        Window(40.0, 40.05, Level.EXACT, 0, 1009, 0.01, 0.05),
        Window(40.05, 50.0, Level.SYSCALLS),
        Window(50.0, 60.0, Level.HOT, 0, 101, 0.001, 10.0),
    )

    seen = fixtures.target(allocators=("libc.so.6",))

    def write(writer: RecordingWriter) -> None:
        for n in range(1, 7):
            sites = (fixtures.heap_site(1, 11, (4096, 2)),)
            writer.write_snapshot(fixtures.snapshot(10.0 * n, sites, windows=parts, targets=(seen,)))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        text = " ".join(render(recording, "text", WriteOptions()).split())
        levels = {window["level"] for window in json.loads(render(recording, "json"))["mode"]["windows"]}
    assert "of the calls); rare call sites for 20s" in text
    assert levels == {"exact", "hot", "syscalls"}
