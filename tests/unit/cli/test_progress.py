"""Progress on stderr: lines, and the live view drawn from the same facts."""

from __future__ import annotations

import re

import pytest

from nativeleak.cli.live import LiveView, make_reporter
from nativeleak.cli.progress import LineProgress, progress_line
from nativeleak.engines.base import Progress, Row

MIB = 1 << 20
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BLOCKS = Progress(7 * MIB, 3 * MIB, 1009, 12, (Row(3 * MIB, 1009, "worker\x1b[31m", "leak"),))
MAPPINGS = Progress(7 * MIB, 3 * MIB, rows=(Row(3 * MIB, 5, "worker", "[glibc arena]"),))


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (BLOCKS, "1m 01s of 10m 00s, RSS 7 MiB, outstanding 3 MiB in 1,009 allocations at 12 sites"),
        (MAPPINGS, "1m 01s of 10m 00s, RSS 7 MiB, outstanding 3 MiB"),
    ],
)
def test_progress_line_says_what_the_engine_counts(progress, line):
    assert progress_line(61.7, 600.0, progress) == line


def test_progress_line_without_an_end_says_no_end():
    assert progress_line(61.7, None, MAPPINGS).startswith("1m 01s, RSS")


def test_lines_come_once_a_minute_and_look_only_then(capsys):
    looks = []

    def look(n_rows):
        looks.append(n_rows)
        return MAPPINGS

    progress = LineProgress()
    progress.attached("tracing PID 7", ["by magic"], 600.0)
    for elapsed_s in (0.5, 59.9, 60.0, 60.1, 119.0, 120.0):
        progress.tick(elapsed_s, look)
    assert looks == [0, 0]
    assert capsys.readouterr().err.splitlines() == [
        "nativeleak: tracing PID 7",
        "nativeleak: 1m 00s of 10m 00s, RSS 7 MiB, outstanding 3 MiB",
        "nativeleak: 2m 00s of 10m 00s, RSS 7 MiB, outstanding 3 MiB",
    ]


def test_details_are_for_those_who_asked(capsys):
    LineProgress(verbose=True).attached("tracing PID 7", ["by magic"], None)
    assert capsys.readouterr().err == "nativeleak: tracing PID 7\nnativeleak: by magic\n"


def test_quiet_says_only_what_is_not_to_be_missed(capsys):
    progress = LineProgress(quiet=True)
    progress.attached("tracing PID 7", [], None)
    progress.say("one")
    progress.note("two")
    progress.warn("evil\x1b[31m")
    assert capsys.readouterr().err == "nativeleak: evil\\x1b[31m\n"


def test_stderr_that_is_no_terminal_gets_lines():
    assert type(make_reporter(quiet=False, verbose=False)) is LineProgress


@pytest.mark.parametrize(
    ("progress", "counted"), [(BLOCKS, "in 1,009 allocations"), (MAPPINGS, "outstanding 3 MiB  growth")]
)
def test_live_view_shows_times_sums_and_rows(progress, counted, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with LiveView() as view:
        view.attached("tracing PID 7", [], 600.0)
        view.tick(61.7, lambda n_rows: progress if n_rows else pytest.fail("no rows asked for"))
        view.note("something happened")
    shown = ANSI.sub("", capsys.readouterr().err)
    assert "1m 01s of 10m 00s" in shown
    assert counted in shown
    assert progress.rows[0].function in shown
    assert f"{progress.rows[0].count:,}" in shown
    assert "nativeleak: something happened" in shown
    assert "\x1b[31m" not in shown
    assert progress is MAPPINGS or "worker\\x1b[31m" in shown
