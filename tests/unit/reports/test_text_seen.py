"""Lines on what is watched and what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.resident import Moment, ResidentLine, ResidentMemory
from nativeleak.analysis.select import Selection
from nativeleak.model import Child, Level, TargetInfo, Unwatched, Window
from nativeleak.recording import RecordingWriter
from nativeleak.reports.build import build
from nativeleak.reports.report import Report
from nativeleak.reports.text_seen import process_name, saw_everything, watched_lines

MIB = 1 << 20
EXACT = (Window(0.0, 20.0, Level.EXACT, probe_hits=7),)


def report(
    path: Path, target: TargetInfo, *, hits: int = 7, grown: int = 0, note: tuple[str, str] | None = None, **facts: Any
) -> Report:
    def write(writer: RecordingWriter) -> None:
        if note is not None:
            writer.add_event(1.0, *note)
        for i in range(2):
            rss = 100 * MIB + i * grown
            writer.write_snapshot(
                fixtures.snapshot(10.0 * (1 + i), (), targets=(target,), rss_bytes=rss, probe_hits=hits, **facts)
            )

    with fixtures.record(path / "a.nlk", write) as recording:
        made = build(recording, Selection())
        made.answer.find()
        return made


def watched(**changes: Any) -> TargetInfo:
    return replace(fixtures.target(), allocators=("libc.so.6",), **changes)


def test_everything_was_seen_where_all_was_exact(tmp_path: Path) -> None:
    made = report(tmp_path, watched(), windows=EXACT)
    assert saw_everything(made)
    assert [line.label for line in watched_lines(made)] == ["Watched"]
    assert "libc.so.6" in next(watched_lines(made)).text


def test_allocator_that_is_not_watched_is_named_with_what_to_do(tmp_path: Path) -> None:
    made = report(tmp_path, watched(unwatched=(Unwatched("app", "", "acme_", "use --allocator acme_"),)), windows=EXACT)
    assert not saw_everything(made)
    lines = [line for line in watched_lines(made) if line.label == "NOT WATCHED"]
    assert [line.text for line in lines] == ["what looks like an allocator (acme_) in app: use --allocator acme_"]


def test_no_call_beside_memory_that_grows_is_not_everything(tmp_path: Path) -> None:
    made = report(tmp_path, watched(), hits=0, grown=93 * MIB, windows=EXACT)
    assert not saw_everything(made)
    assert any("grew by 93 MiB" in line.text for line in watched_lines(made) if line.label == "NOT WATCHED")
    still = report(tmp_path / "b", watched(), hits=0, windows=EXACT) if (tmp_path / "b").mkdir() is None else None
    assert still is not None
    assert saw_everything(still)


def test_no_call_beside_memory_that_the_program_mapped_is_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(tmp_path, watched(), hits=0, grown=93 * MIB, windows=EXACT)
    start, end = (
        Moment(s, dict.fromkeys(ResidentLine, 0) | {ResidentLine.RETAINED: 7 * MIB, ResidentLine.MAPPED: n}, 0, True)
        for s, n in ((0.0, 0), (20.0, 93 * MIB))
    )
    resident = ResidentMemory(7 * MIB, 100 * MIB, 100 * MIB, 20.0, False, start, end, end)
    monkeypatch.setattr(made.answer, "memory", replace(made.memory, resident=resident))
    assert saw_everything(made)


def test_return_probes_where_exits_were_wanted_are_not_everything(tmp_path: Path) -> None:
    made = report(tmp_path, watched(), windows=EXACT, note=("returns", "return probes on malloc of app: it may end"))
    assert not saw_everything(made)
    assert [line.text for line in watched_lines(made) if line.label == "MAY HARM"] == [
        "return probes on malloc of app: it may end"
    ]


@pytest.mark.parametrize("level", [Level.SAMPLED, Level.BIG, Level.SYSCALLS])
def test_windows_without_every_block_are_not_everything(tmp_path: Path, level: Level) -> None:
    made = report(tmp_path, watched(), windows=(*EXACT, Window(20.0, 21.0, level, 1 << 19)))
    assert not saw_everything(made)


def test_children_that_hold_as_much_are_listed_with_their_growth(tmp_path: Path) -> None:
    children = (
        Child(8520, "php-fpm: pool www", 40 * MIB, 5 * MIB),
        Child(8521, "php-fpm: pool www", 41 * MIB, 4 * MIB, is_alive=False),
        Child(8522, "small", MIB, 0, holds_as_much=False),
    )
    made = report(tmp_path, watched(children=children), windows=EXACT)
    text = next(line.text for line in watched_lines(made) if line.label == "CHILDREN")
    assert text == (
        "this process has 2 children that hold or grew as much or more: 8520 (php-fpm: pool www, 40 MiB, +5 MiB), "
        "8521 (php-fpm: pool www, 41 MiB, +4 MiB, ended): nativeleak trace -p 8520"
    )


def test_process_name_has_the_file_beside_it_where_they_differ() -> None:
    redis = replace(fixtures.target(), comm="redis-server", exe="/usr/bin/redis-check-rdb", pid=7)
    assert process_name(redis) == "redis-server (PID 7, program file /usr/bin/redis-check-rdb)"
    for comm, exe in (
        ("java", "/usr/bin/java"),
        ("python3", "/usr/bin/python3.11"),
        ("a-name-of-fifte", "/a-name-of-fifteen"),
    ):
        assert process_name(replace(redis, comm=comm, exe=exe)) == f"{comm} (PID 7)"
