"""Comparing recordings: every figure from recordings whose totals are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import recording_fixtures as fixtures
from nativeleak.cli.diff import diff_command
from nativeleak.errors import RecordingError, UsageError
from nativeleak.model import Frame, Level, SiteTotals, Stack, ThreadInfo, Uncertainty, Window
from nativeleak.recording import RecordingWriter

MIB = fixtures.MIB
LEAK = "Codec.decode < Pipeline.next < thread_native_entry < start_thread"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return fixtures.write_gateway(tmp_path / "before.nlk", 10)


@pytest.fixture
def after(tmp_path: Path) -> Path:
    return fixtures.write_gateway(tmp_path / "after.nlk", 12)


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(diff_command, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _json(*arguments: object) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(_run(*arguments, "--format", "json"))
    assert parsed["schema"] == "nativeleak.diff/1"
    for rows in ("paths", "pools", "purposes"):
        assert (
            sum(row["outstanding_bytes_change"] for row in parsed[rows]) == parsed["total"]["outstanding_bytes_change"]
        )
        assert (
            sum(row["after"]["allocated_bytes"] for row in parsed[rows]) == parsed["total"]["after"]["allocated_bytes"]
        )
    return parsed


def _write(path: Path, stacks: tuple[Stack, ...], sites: tuple[SiteTotals, ...], **changes: Any) -> Path:
    threads = changes.pop("threads", fixtures.THREADS)

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(stacks)
        writer.write_snapshot(fixtures.snapshot(60.0, sites, threads=threads, **changes))

    fixtures.record(path, write).close()
    return path


def test_text_says_what_grew(before: Path, after: Path) -> None:
    lines = _run(before, after).splitlines()
    assert lines[0] == f"before  {before}: java (PID 5687) at 10m 00s"
    assert lines[2].startswith("change  +96 MiB (from 707.1 MiB to 803.1 MiB, +13.6 %): bytes not freed")
    row = next(line for line in lines if LEAK in line)
    assert row.split()[:6] == ["+96", "MiB", "512.0", "MiB", "608.0", "MiB"]
    pool = next(line for line in lines if line.endswith("nioEventLoop-*-*"))
    assert pool.split()[:2] == ["+96", "MiB"]


def test_json_has_paths_pools_and_purposes(before: Path, after: Path) -> None:
    found = _json(before, after)
    leak = found["paths"][0]
    assert (leak["kind"], leak["function"], leak["outstanding_bytes_change"]) == ("heap", "Codec.decode", 96 * MIB)
    assert (leak["before"]["outstanding_count"], leak["after"]["outstanding_count"]) == (33, 39)
    assert (leak["frames"][0], leak["frames"][-1]) == ("malloc", "start_thread")
    assert {row["purpose"]: row["after"]["outstanding_bytes"] for row in found["purposes"]} == {
        "the program's blocks": 38 * 16 * MIB + 3 * MIB + 1009,
        "the program's mappings": 64 * MIB,
        "jvm: other": 128 * MIB,
        "the program break": 132 * 1024,
    }


def test_moments_of_one_recording(after: Path) -> None:
    found = _json(after, "--from", "5m", "--to", "10m")
    assert (found["before"]["moment_s"], found["after"]["moment_s"]) == (300.0, 600.0)
    assert found["total"]["outstanding_bytes_change"] == 5 * 48 * MIB
    assert found["notes"] == []


def test_folded_has_the_columns_of_a_differential_flame_graph(before: Path, after: Path) -> None:
    lines = _run(before, after, "--format", "folded").splitlines()
    stack, old, new = lines[0].rsplit(" ", 2)
    assert stack.split(";")[0::10] == ["nioEventLoop-*-*", "malloc"]
    assert (int(old), int(new)) == (32 * 16 * MIB, 38 * 16 * MIB)
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == 38 * 16 * MIB + 195 * MIB + 1009 + 132 * 1024


def test_metric_and_top_hold(before: Path, after: Path) -> None:
    found = _json(before, after, "--metric", "count", "--thread", "nioEventLoop*")
    assert [row["outstanding_count_change"] for row in found["paths"]] == [6]
    text = _run(before, after, "--metric", "count", "--top", "1")
    assert "By call path (1 of 5, by size of change)" in text
    assert "+6 (from 3,109 to 3,115, +0.2 %): blocks not freed" in text


def test_addresses_and_versions_part_no_paths(tmp_path: Path) -> None:
    def stack(key: int, base: int, version: str) -> Stack:
        return Stack(key, (Frame("malloc", f"libc-{version}.so", base, 1), Frame("main", "app", base + 99, base & 7)))

    threads = ThreadInfo(1, 0, 100, "worker-1"), ThreadInfo(1, 0, 200, "worker-7")
    old = _write(tmp_path / "a", (stack(1, 0x1000, "1"),), (fixtures.heap_site(1, 1, (MIB, 1)),), threads=threads[:1])
    new = _write(
        tmp_path / "b", (stack(9, 0x7003, "2"),), (fixtures.heap_site(1, 9, (3 * MIB, 3)),), threads=threads[1:]
    )
    found = _json(old, new)
    assert [(row["frames"], row["outstanding_bytes_change"]) for row in found["paths"]] == [
        (["malloc", "main"], 2 * MIB)
    ]
    assert [row["pool"] for row in found["pools"]] == ["worker-*"]


def test_what_is_gone_is_a_fall(tmp_path: Path) -> None:
    old = _write(
        tmp_path / "a", fixtures.STACKS, (fixtures.heap_site(1, 12, (MIB, 1)), fixtures.heap_site(1, 11, (9, 1)))
    )
    new = _write(tmp_path / "b", fixtures.STACKS, (fixtures.heap_site(1, 11, (9, 1)),))
    assert [row["outstanding_bytes_change"] for row in _json(old, new)["paths"]] == [0, -MIB]
    row = next(line for line in _run(old, new, "--top", "1").splitlines() if line.endswith("cache_grow < main"))
    assert row.split() == ["-1", "MiB", "1", "MiB", "0", "B", "heap", "cache_grow", "<", "main"]


def test_losses_sampling_and_windows_are_told(tmp_path: Path) -> None:
    sampled = fixtures.heap_site(1, 12, (MIB, 1), uncertainty=Uncertainty(2, 4e8, 0.0))
    old = _write(
        tmp_path / "a",
        fixtures.STACKS,
        (sampled,),
        windows=(Window(0.0, 60.0, Level.SAMPLED, 524288),),
        counters=fixtures.counters(lost_bytes=77),
    )
    new = _write(tmp_path / "b", fixtures.STACKS, (), targets=(fixtures.target(exe="/bin/other"),))
    found = _json(old, new)
    assert found["total"]["error_bytes"] == round(1.96 * 20_000)
    assert found["notes"] == [
        "The traces are of different programs.",
        "BEFORE: heap memory is estimated, from one block in about 524,288 bytes.",
        "BEFORE: lost_bytes 77.",
    ]


def test_lengths_of_two_traces_are_told_where_they_differ(tmp_path: Path) -> None:
    def write(path: Path, length_s: float, started: float) -> Path:
        with RecordingWriter(path, fixtures.trace_info(started=started)) as writer:
            writer.write_snapshot(fixtures.snapshot(length_s, ()))
            writer.finish("duration", length_s)
        return path

    old, new = write(tmp_path / "a", 600.0, 1e9), write(tmp_path / "b", 720.0, 2e9)
    assert _json(old, new)["notes"] == [
        "The traces are 10m 00s and 12m 00s long: a longer trace of the same program holds more, leak or not."
    ]
    assert _json(old, write(tmp_path / "c", 610.0, 2e9))["notes"] == []


def test_uncertainty_that_is_not_recorded_is_told(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.add_stacks(fixtures.STACKS)
        for number in range(1, 4):
            site = fixtures.heap_site(1, 12, (number * MIB, number), uncertainty=Uncertainty(number, 4e8, 0.0))
            window = Window(0.0, 60.0 * number, Level.SAMPLED, 524288)
            writer.write_snapshot(
                fixtures.snapshot(60.0 * number, (site,), threads=fixtures.THREADS, windows=(window,))
            )

    fixtures.record(tmp_path / "a.nlk", write).close()
    notes = _json(tmp_path / "a.nlk", "--from", "1m")["notes"]
    assert "BEFORE: the uncertainty of its estimates is not recorded at this moment, and is not in ±." in notes
    assert not [note for note in notes if note.startswith("AFTER: the uncertainty")]


def test_allocated_bytes_without_a_stack_are_told(before: Path, tmp_path: Path) -> None:
    gone = fixtures.heap_site(0, 0, (5 * MIB, 5), (5 * MIB, 5))
    new = _write(tmp_path / "b", fixtures.STACKS, fixtures.gateway_sites(0), retired=(gone,))
    assert _json(before, new)["after"]["dropped_bytes"] == 5 * MIB
    note = "AFTER: 5 MiB of sites that were dropped"
    assert note in _run(before, new, "--metric", "allocated")
    assert note not in _run(before, new)


def test_libraries_of_a_configuration_file_head_no_path(
    before: Path, after: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "config" / "nativeleak"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('libraries = ["com.example.gateway.Codec*"]')
    (folder / "config.toml").chmod(0o600)
    assert "heap  Codec.decode" in _run(before, after)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert "heap  Codec.decode" not in _run(before, after)


def test_paths_of_one_function_look_different(tmp_path: Path) -> None:
    stacks = tuple(
        Stack(key, (fixtures.native(leaf), fixtures.native("serve", "app"), fixtures.native("main", "app")))
        for key, leaf in ((1, "malloc"), (2, "calloc"))
    )
    old = _write(tmp_path / "a", stacks, ())
    new = _write(tmp_path / "b", stacks, (fixtures.heap_site(1, 1, (MIB, 1)), fixtures.heap_site(1, 2, (MIB, 1))))
    text = _run(old, new)
    assert "heap  malloc < serve < main" in text
    assert "heap  calloc < serve < main" in text


def test_nothing_against_nothing(tmp_path: Path) -> None:
    old, new = (_write(tmp_path / name, (), ()) for name in "ab")
    assert _json(old, new)["total"]["outstanding_bytes_change"] == 0
    assert _run(old, new, "--format", "folded") == ""
    assert "change  0 B (from 0 B to 0 B)" in _run(old, new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "--from is missing"),
        (["{a}", "--from", "end"], "the same moment"),
        (["{a}", "{a}", "{a}"], "3 recordings"),
        (["{a}", "--from", "yesterday"], "yesterday"),
    ],
)
def test_bad_use_is_refused_with_a_reason(before: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(diff_command, [each.format(a=before) for each in arguments], catch_exceptions=False)


def test_missing_recording_is_named(before: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"none\.nlk failed: no such file"):
        CliRunner().invoke(diff_command, [str(before), str(tmp_path / "none.nlk")], catch_exceptions=False)
