"""Memory that is not where the user looks: in child processes, and behind libraries that were unloaded."""

from __future__ import annotations

import shutil

from support import Target, Trace, target_path
from tools.check_report import check

N_LOADS = 20
KEPT_BYTES = 4 << 20


def test_child_that_grows_is_named_below_its_master():
    with Target("workers", "room-for-a-longer-title") as target, Trace(target) as trace:
        target.go()
        report = trace.stop()
    assert check(report) == []
    first = report["children"][0]
    assert KEPT_BYTES <= first["growth_bytes"] < KEPT_BYTES + (1 << 20)
    assert first["comm"] == "workers: idle"
    assert first["alive"]
    assert first["rss_bytes"] > first["growth_bytes"]


def test_child_that_is_traced_too_is_not_named():
    with Target("workers", "room-for-a-longer-title") as target, Trace(target) as trace:
        target.go()
        children = [child["pid"] for child in trace.stop()["children"]]
    assert children
    with Target("workers", "room-for-a-longer-title") as target:
        with open(f"/proc/{target.pid}/task/{target.pid}/children", encoding="ascii") as file:
            pids = [int(pid) for pid in file.read().split()]
        with Trace(target, *pids) as trace:
            target.go()
            report = trace.stop()
    assert report["children"] == []
    kept = [row for row in report["sites"] if any(frame["function"] == "worker_keeps" for frame in row["frames"])]
    assert [(row["pid"], row["outstanding_bytes"]) for row in kept] == [(pids[1], KEPT_BYTES)]


def test_plugin_that_comes_and_goes_by_two_paths_is_one_row_with_names(tmp_path):
    copy = shutil.copy(target_path("plugin.so"), tmp_path / "other.so")
    with Target("plugins", target_path("plugin.so"), copy, 50_000) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
    rows = [row for row in report["sites"] if {"plugin_buffer"} & {frame["function"] for frame in row["frames"]}]
    # A block of the first moments, before the tables of the plugin were there, may have a guessed stack.
    exact = [row for row in rows if "guess" not in {frame["found"] for frame in row["frames"]}]
    whole = [row for row in exact if "plugins_keep" in {frame["function"] for frame in row["frames"]}]
    assert truth["sites"][0]["outstanding_count"] == N_LOADS
    assert len({row["id"] for row in whole}) == 1
    assert len({frame["module"] for row in rows for frame in row["frames"][1:2]}) == 1
    assert sum(row["outstanding_count"] for row in whole) > N_LOADS // 2
    assert {note["text"].split()[0] for note in report["notes"] if note["what"] == "unloaded"} <= {
        "plugin.so",
        "other.so",
    }
