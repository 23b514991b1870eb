"""JSON and folded stacks: the contract, to the byte where it can be."""

from __future__ import annotations

import json
import re
import runpy
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.model import (
    Frame,
    FrameKind,
    Kind,
    Owner,
    SiteKey,
    SiteTotals,
    Stack,
    TargetEnd,
    ThreadInfo,
    UnmapTotals,
)
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.reports.formats import WriteOptions
from rendering import render, render_selected

MIB = fixtures.MIB
CHECK = runpy.run_path(str(Path(fixtures.__file__).parent / "tools" / "check_report.py"))["check"]
HOSTILE = "ev\x1b[31mil;na\nme\r\u202e<script>alert(1)</script>\x07\udcff"


def _json(recording: Recording, **selection: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(render_selected(recording, "json", **selection))
    return parsed


def _folded(recording: Recording, **selection: Any) -> list[str]:
    return render_selected(recording, "folded", **selection).splitlines()


def test_json_keeps_the_contract_and_its_sums(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk", end=TargetEnd.OOM_KILLED)) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    assert report["target"] == {
        "pid": 5687,
        "comm": "java",
        "exe": "/usr/lib/jvm/bin/java",
        "jvm": {"version": "17.0.21"},
        "runtime": {"name": "hotspot", "version": "17.0.21"},
        "end": "oom-killed",
        "end_signal": 0,
        "allocators": [],
    }
    assert report["window"] == {"started": "2026-11-23T17:26:20.000+00:00", "duration_s": 720.0, "snapshots": 12}
    assert report["totals"]["heap"] == {
        "outstanding_bytes": 38 * 16 * MIB + 3 * MIB + 1009,
        "outstanding_count": 38 + 3072 + 1,
        "allocated_bytes": 38 * 16 * MIB + 4 * MIB + 7 * MIB + 11 * 4096 + 1009,
        "allocated_count": 38 + 4096 + 7168 + 11 + 1,
        "freed_bytes": MIB + 7 * MIB + 11 * 4096,
        "freed_count": 1024 + 7168 + 11,
        "resident_bytes": 0,
        "reserved_bytes": 0,
    }
    assert report["totals"]["map"]["outstanding_bytes"] == 192 * MIB
    assert report["totals"]["map"]["resident_bytes"] == 96 * MIB
    assert report["totals"]["map"]["reserved_bytes"] == 1024 * MIB
    assert report["totals"]["brk"]["outstanding_bytes"] == 132 * 1024
    assert report["allocator_backing"]["outstanding_bytes"] == 32 * MIB
    assert [site["owner"] for site in report["sites"] if site["kind"] == "map"] == ["jvm", "program"]
    assert report["overhead"]["estimated_target_cpu_pct"] == 2.5455
    assert report["filtered"] is False


def test_json_site_has_every_key_of_the_contract(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        site = _json(recording)["sites"][0]
    frames = site.pop("frames")
    assert frames[1] == {
        "function": "os::malloc(unsigned long, MEMFLAGS)",
        "module": "libjvm.so",
        "file": "os.cpp",
        "line": 735,
        "offset": 0x2F,
        "kind": "native",
        "ip": hex(0x7F000000102F),
        "module_offset": "0x0",
        "found": "exact",
    }
    assert site == {
        "id": "a2540e0bddeba81a",
        "kind": "heap",
        "owner": "program",
        "functions": ["malloc"],
        "pid": 5687,
        "thread": {"tid": 1860, "name": "nioEventLoop-1-1"},
        "outstanding_bytes": 637534208,
        "outstanding_count": 38,
        "allocated_bytes": 637534208,
        "allocated_count": 38,
        "freed_bytes": 0,
        "freed_count": 0,
        "reserved_bytes": 0,
        "resident_bytes": None,
        "oldest_s": 670.0,
        "growth": {"slope_bytes_per_s": 838860.8, "ci95": [838860.8, 838860.8], "verdict": "growing"},
        "truncated": False,
        "stack_end": "root",
    }


@pytest.mark.parametrize("n_snapshots", [1, 2, 3])
def test_json_short_trace_keeps_the_contract(tmp_path: Path, n_snapshots: int) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk", n_snapshots=n_snapshots)) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    assert {site["growth"]["verdict"] for site in report["sites"]} == {"undecided"}


def test_json_filters_hold_for_all_of_the_report(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        part, of_function = _json(recording, thread="worker"), _json(recording, function="cache_grow")
        folded = _folded(recording, function="cache_grow")
        text = render_selected(recording, "text", function="cache_grow")
    assert CHECK(part) == CHECK(of_function) == []
    assert part["totals"]["heap"]["outstanding_bytes"] == 1009
    assert [thread["name"] for thread in part["threads"] if thread["outstanding_bytes"]] == ["worker"]
    assert part["suspects"] == of_function["suspects"] == []
    assert of_function["totals"]["heap"]["outstanding_bytes"] == 3 * fixtures.MIB
    assert sum(int(line.rsplit(" ", 1)[1]) for line in folded) == 3 * fixtures.MIB
    assert "3 MiB of 11.0 MiB allocated" in text
    assert "only --function cache_grow" in " ".join(text.split())
    assert "newChunk" not in text
    assert (part["filtered"], part["shown"]) == (True, {"sites": 1, "of": 1})
    assert [site["outstanding_bytes"] for site in part["sites"]] == [1009]


def test_json_by_site_merges_threads(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        site = _json(recording, by=By.SITE)["sites"][0]
    assert (site["thread"], site["threads"]) == ({"tid": 0, "name": "*"}, 2)
    assert site["outstanding_bytes"] == 38 * 16 * MIB + 1009


def test_by_pool_names_the_pool_in_all_formats(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        report = _json(recording, by=By.POOL)
        folded = render_selected(recording, "folded", by=By.POOL)
        options = WriteOptions(detail=True)
        text = render(recording, "text", options, Selection(by=By.POOL))
    site = report["sites"][0]
    assert report["by"] == "pool"
    assert (site["thread"], site["threads"]) == ({"tid": 0, "name": site["thread"]["name"]}, 1)
    assert {line.split(";")[0] for line in folded.splitlines()} >= {"nioEventLoop-*-*"}
    assert "1 thread nioEventLoop-*-*; heap" in text
    assert "Call paths, threads of a pool together by outstanding bytes" in text


def test_json_stack_and_thread_beyond_the_limit_are_placeholders(tmp_path: Path) -> None:
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, [fixtures.heap_site(0, 0, (7, 1))]))
    ) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    assert report["sites"][0]["frames"][0]["function"] == "[stack lost]"


def test_json_pmap_without_stacks_keeps_the_contract(tmp_path: Path) -> None:
    site = fixtures.map_site(0, 77, (4096, 1))
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, [site])), backend="pmap"
    ) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    assert (report["sites"][0]["frames"], report["sites"][0]["id"]) == ([], f"{77:016x}")


def test_json_tid_used_twice_is_one_thread(tmp_path: Path) -> None:
    threads = (ThreadInfo(1, 0, 50, "first", alive=False), ThreadInfo(2, 0, 50, "second"))
    sites = [fixtures.heap_site(1, 11, (7, 1)), fixtures.heap_site(2, 11, (13, 1))]
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, sites, threads=threads))
    ) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    assert report["threads"] == [
        {"tid": 50, "name": "second", "alive": True, "outstanding_bytes": 20, "outstanding_count": 2}
    ]
    assert sorted(site["thread"]["name"] for site in report["sites"]) == ["first", "second"]


def test_json_retired_sites_count_as_allocated_and_freed(tmp_path: Path) -> None:
    retired = (SiteTotals(SiteKey(Kind.HEAP, 0, 0, 0), 997, 11, 997, 11),)
    with fixtures.record(
        tmp_path / "a.nlk",
        lambda w: w.write_snapshot(fixtures.snapshot(1.0, [fixtures.heap_site(1, 11, (7, 1))], retired=retired)),
    ) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    heap = report["totals"]["heap"]
    assert (heap["allocated_bytes"], heap["freed_bytes"], heap["outstanding_bytes"]) == (1004, 997, 7)
    assert (heap["allocated_count"], heap["freed_count"]) == (12, 11)


def test_json_says_who_gave_mapped_memory_back_most_first(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    rows = report["unmapped"]
    assert [(row["owner"], row["freed_bytes"]) for row in rows] == [
        ("c-library", 96 * MIB),
        ("program", 19 * MIB),
        ("allocator", 13 * MIB),
        ("program", 60 * 4096),
    ]
    frames = rows[1].pop("frames")
    assert [frame["function"] for frame in frames] == ["munmap", "drop_index", "main"]
    assert set(frames[0]) == set(report["sites"][0]["frames"][0])
    assert rows[1] == {
        "id": rows[3]["id"],
        "owner": "program",
        "functions": ["munmap", "mremap"],
        "pid": 5687,
        "thread": {"tid": 1860, "name": "nioEventLoop-1-1"},
        "calls": 2,
        "freed_bytes": 19 * MIB,
        "other_threads_bytes": 17 * MIB,
        "reserved_bytes": 3 * MIB,
        "older_bytes": 0,
        "truncated": False,
        "stack_end": "root",
    }
    assert rows[3]["older_bytes"] == 7 * 4096
    assert (rows[2]["thread"], rows[2]["frames"]) == ({"tid": 0, "name": "*"}, [])


@pytest.mark.parametrize(
    ("selection", "n_rows"),
    [({"thread": "nio*"}, 1), ({"function": "drop_index"}, 2), ({"function": "no_such"}, 0), ({"top": 1}, 4)],
)
def test_json_filters_hold_for_who_gave_back_too(tmp_path: Path, selection: dict[str, Any], n_rows: int) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        assert len(_json(recording, **selection)["unmapped"]) == n_rows


def test_json_who_gave_back_is_null_where_it_was_not_recorded(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE unmapped")
    with open_recording(path) as recording:
        report = _json(recording)
    assert CHECK(report) == []
    assert report["unmapped"] is None
    by_maps = {"backend": "pmap"}
    with fixtures.record(
        tmp_path / "b.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, [])), **by_maps
    ) as recording:
        assert _json(recording)["unmapped"] is None


def test_json_who_gave_back_at_a_lost_stack_says_so(tmp_path: Path) -> None:
    rows = (UnmapTotals(0, 0, 1, 4711, Owner.PROGRAM, ("munmap",), 3, 4096),)
    with fixtures.record(
        tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, [], unmapped=rows))
    ) as recording:
        [row] = _json(recording)["unmapped"]
    assert [frame["function"] for frame in row["frames"]] == ["[stack lost]"]


def test_json_nothing_allocated_is_a_report(tmp_path: Path) -> None:
    with fixtures.record(tmp_path / "a.nlk", lambda w: w.write_snapshot(fixtures.snapshot(1.0, []))) as recording:
        assert CHECK(_json(recording)) == []
        for by in By:
            assert _folded(recording, by=by) == []


def test_render_without_a_snapshot_says_so_in_a_report(tmp_path: Path) -> None:
    target = fixtures.target()
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info(), targets=[target]):
        pass
    with open_recording(tmp_path / "a.nlk") as recording:
        report = _json(recording)
        text = render(recording, "text")
        assert CHECK(report) == []
        assert (report["window"]["snapshots"], report["sites"]) == (0, [])
        assert report["target"]["pid"] == target.pid
        assert text.startswith(f"{target.comm} (PID {target.pid}) ")
        assert "the recording ends before its first snapshot" in " ".join(text.split())
        for by in By:
            assert _folded(recording, by=by) == []


def test_folded_is_root_first_with_suffixes(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        lines = _folded(recording)
        first = ";".join(
            [
                "nioEventLoop-1-1",
                "start_thread",
                "thread_native_entry(Thread*)",
                *["com.example.gateway.Pipeline.next_[0]"] * 17,
                "com.example.gateway.Codec.decode_[0]",
                "io.netty.buffer.PoolArena.newChunk_[j]",
                "java.nio.DirectByteBuffer.<init>_[i]",
                "jdk.internal.misc.Unsafe.allocateMemory0_[j]",
                "Unsafe_AllocateMemory0",
                "os::malloc(unsigned long, MEMFLAGS)",
                "malloc",
            ]
        )
        assert lines[0] == f"{first} 637534208"
        assert lines[3] == "java;main;cache_grow;calloc 3145728"
        assert len(lines) == 6


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        (Metric.COUNT, [3072, 38, 2, 1, 1, 1]),
        (Metric.GROWTH, [48 * MIB]),
        (Metric.RESIDENT, [64 * MIB, 32 * MIB, 132 * 1024]),
        (
            Metric.ALLOCATED,
            [38 * 16 * MIB, 128 * MIB, 64 * MIB, 7 * MIB + 11 * 4096, 4 * MIB, 132 * 1024, 1009],
        ),
    ],
)
def test_folded_metric_leaves_out_nothing_but_zero(tmp_path: Path, metric: Metric, values: list[int]) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        lines = _folded(recording, metric=metric)
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == values


def _hostile(path: Path) -> Recording:
    frames = tuple(
        Frame(HOSTILE, HOSTILE, 1, 2, kind, HOSTILE, 3)
        for kind in (FrameKind.NATIVE, FrameKind.JAVA_COMPILED, FrameKind.KERNEL, FrameKind.UNRESOLVED)
    )
    site = fixtures.heap_site(1, 5, (4096, 7), functions=(HOSTILE,))

    def write(writer: Any) -> None:
        writer.add_stacks([Stack(5, frames, end=HOSTILE)])
        writer.add_event(0.5, "note", HOSTILE)
        writer.write_snapshot(
            fixtures.snapshot(
                1.0, [site], threads=(ThreadInfo(1, 0, 7, HOSTILE),), targets=(fixtures.target(comm=HOSTILE),)
            )
        )

    return fixtures.record(path, write)


def test_folded_hostile_names_keep_to_one_line_and_one_frame(tmp_path: Path) -> None:
    with _hostile(tmp_path / "a.nlk") as recording:
        (line,) = _folded(recording)
    assert re.fullmatch(r"[^;\x00-\x1f]+(;[^;\x00-\x1f]+){4} 4096", line)
    assert line.isprintable()
    assert line.startswith("ev\\x1b[31mil:na\\x0ame\\x0d\\u202e<script>")


@pytest.mark.parametrize("by", list(By))
def test_text_hostile_names_reach_no_terminal(tmp_path: Path, by: By) -> None:
    with _hostile(tmp_path / "a.nlk") as recording:
        text = render_selected(recording, "text", by=by, thread="/evil|ev/")
    assert all(line.isprintable() for line in text.splitlines())
    assert "ev\\x1b[31mil;na\\x0ame" in text


def test_text_hostile_names_do_not_colour_a_terminal(tmp_path: Path) -> None:
    with _hostile(tmp_path / "a.nlk") as recording:
        text = render(recording, "text", WriteOptions(colour=True, width=80))
    assert "\x1b[31mil" not in text
    assert not set(re.sub(r"\x1b\[[0-9;]*m", "", text)) & set(map(chr, [*range(10), *range(11, 32), 0x202E]))


def test_json_hostile_names_are_ascii_and_whole(tmp_path: Path) -> None:
    with _hostile(tmp_path / "a.nlk") as recording:
        text = render(recording, "json")
    assert text.isascii()
    assert text[:-1].isprintable()
    assert json.loads(text)["sites"][0]["thread"]["name"] == HOSTILE.replace("\udcff", "\\udcff")


def test_json_compact_says_the_same_in_a_tenth_of_the_bytes(tmp_path: Path) -> None:
    """Sites with stacks as a JVM has them: 80 frames of long names, most of them shared with other stacks."""
    n_sites, n_methods = 400, 600
    methods = [f"com.example.service.layer{n % 40}.Component{n}.handleRequestOrSomethingElse" for n in range(n_methods)]

    def stack(key: int) -> Stack:
        chosen = ((key * 7919 + n * 104729) % n_methods for n in range(77))
        frames = (fixtures.java(methods[n], line=n + 1) for n in chosen)
        return Stack(key, (fixtures.native("malloc"), *frames, fixtures.native("start_thread")))

    def write(writer: RecordingWriter) -> None:
        writer.add_stacks([stack(key) for key in range(1, n_sites + 1)])
        sites = [fixtures.heap_site(1, key, (1009 * key, key)) for key in range(1, n_sites + 1)]
        writer.write_snapshot(fixtures.snapshot(1.0, sites))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        whole = render(recording, "json")
        compact = render(recording, "json", WriteOptions(compact=True))
    report, small = json.loads(whole), json.loads(compact)
    frames, stacks = small.pop("frames"), small.pop("stacks")
    for site in [*small["sites"], *small["allocator_backing"]["sites"]]:
        site["frames"] = [frames[number] for number in stacks[site.pop("stack")]]
    assert small == report
    assert len(report["sites"]) == n_sites
    assert len(compact) < len(whole) / 10
    assert len(compact) < 1500 * n_sites  # 15 MB for 10,000 sites
