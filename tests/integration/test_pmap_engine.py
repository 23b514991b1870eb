"""The pmap engine: regions of a living process and of recorded listings, named, without rights and without stacks."""

from __future__ import annotations

import json
import subprocess

import pytest

from support import Target, Trace, leaker, nativeleak, require_program
from tools import check_report

PMAP = ["--engine", "pmap", "--interval", "0.2s"]
CHUNK = (16 << 20) + 4096


def chunks(report):
    rows = [row for row in report["sites"] if row["frames"][0]["function"] == "[16 MiB malloc served by mmap]"]
    assert len(rows) == 1
    return rows[0]


@pytest.mark.jvm
def test_pmap_java_leaker_names_the_region_of_the_16_mib_blocks():
    with leaker("chunk-pool=9", "good-citizens=0") as target, Trace(target, options=PMAP) as trace:
        target.send("go")
        truth = target.ask("until chunk-pool 7")
        report = trace.stop()
    (pool,) = (site for site in truth["sites"] if site["name"] == "chunk-pool")
    assert report["tool"]["backend"] == "pmap"
    assert check_report.check(report) == []
    row = chunks(report)
    assert (row["outstanding_count"], row["outstanding_bytes"]) == (
        pool["outstanding_count"], pool["outstanding_count"] * CHUNK,
    )  # fmt: skip
    assert row["resident_bytes"] == row["outstanding_bytes"]
    names = {site["frames"][0]["function"] for site in report["sites"]}
    assert "[glibc arena]" in names


def test_pmap_mapped_memory_is_exact():
    with Target("maps") as target, Trace(target, options=PMAP) as trace:
        truth = target.go()
        report = trace.stop()
    wanted = sum(site["outstanding_bytes"] for site in truth["sites"] if site["kind"] == "map")
    assert report["totals"]["map"]["outstanding_bytes"] == wanted
    assert {row["kind"] for row in report["sites"]} == {"map"}


def test_pmap_target_that_ends_is_reported():
    with Target("brk") as target, Trace(target, options=PMAP) as trace:
        target.go()
        target.send("quit")
        report = trace.wait()
    assert report["target"]["end"] == "exited"


@pytest.mark.jvm
def test_recorded_listings_of_pmap_report_the_same(tmp_path):
    require_program("pmap")
    files = [tmp_path / "before.txt", tmp_path / "after.txt"]
    with leaker("chunk-pool=9", "good-citizens=0") as target:
        for file in files:
            with file.open("w") as out:
                subprocess.run(["pmap", "-x", str(target.pid)], stdout=out, check=True)
            target.send("go")
            truth = target.ask("until chunk-pool 3")
    (pool,) = (site for site in truth["sites"] if site["name"] == "chunk-pool")
    done = nativeleak("trace", "--input", files[0], "--input", files[1], "-o", tmp_path / "x.nlk", "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert check_report.check(report) == []
    assert (report["target"]["pid"], report["target"]["comm"]) == (target.pid, "java")
    assert 0 < chunks(report)["outstanding_count"] <= pool["outstanding_count"]


@pytest.mark.parametrize(
    ("text", "status", "first"),
    [("nothing of the kind\n", 1, "it is neither output of strace nor of pmap"), ("", 1, "it is neither")],
)
def test_input_of_another_kind_is_refused(text, status, first, tmp_path):
    file = tmp_path / "input.txt"
    file.write_text(text)
    done = nativeleak("trace", "--input", file, "-o", tmp_path / "x.nlk")
    assert done.returncode == status
    assert done.stderr.startswith(f"nativeleak: reading {file} failed: {first}")
    assert not (tmp_path / "x.nlk").exists()
    done = nativeleak("trace", "--input", tmp_path / "missing", "-o", tmp_path / "x.nlk")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1, f"nativeleak: reading {tmp_path / 'missing'} failed: No such file or directory",
    )  # fmt: skip
