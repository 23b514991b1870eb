"""``trace --input`` of files at hand, from the file to the report."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from nativeleak.cli.main import run
from tools import check_report

FILES = Path(__file__).parents[2] / "data/files"
GROWTH = 81940 << 10


@pytest.fixture
def trace(tmp_path, capfd):
    """Gives the report of some inputs as JSON, or its error."""

    def make(*files, report_format="json"):
        inputs = [word for file in files for word in ("--input", str(file))]
        status = run(["trace", *inputs, "-o", str(tmp_path / "x.nlk"), "--force", "--format", report_format])
        said = capfd.readouterr()
        if status:
            return status, said.err
        if report_format != "json":
            return said.out
        report = json.loads(said.out)
        assert check_report.check(report) == []
        return report

    return make


def listings(tmp_path, *seconds, name="maps/before-after-sorted"):
    files = []
    for i, second in enumerate(seconds, start=1):
        files.append(tmp_path / f"{i}.txt")
        files[-1].write_text((FILES / f"{name}.{i}.txt").read_text())
        os.utime(files[-1], (second, second))
    return files


def outstanding(report):
    return sum(each["outstanding_bytes"] for each in report["totals"].values())


@pytest.mark.parametrize(("seconds", "duration_s"), [((1000, 1600), 600), ((1600, 1000), 0), ((1000, 1000), 0)])
def test_two_sorted_listings_stand_in_the_order_of_the_command_line(trace, tmp_path, seconds, duration_s):
    report = trace(*listings(tmp_path, *seconds))
    assert (outstanding(report), report["window"]["duration_s"], report["window"]["snapshots"]) == (
        GROWTH,
        duration_s,
        2,
    )
    text = trace(*listings(tmp_path, *seconds), report_format="text")
    assert ("rates cannot be known" in text) == (duration_s == 0)
    assert "+80.0 MiB" in text
    assert "Nothing was lost" not in text or duration_s


def test_date_lines_say_the_time_between_listings(trace, tmp_path):
    one, two = (path.read_text() for path in listings(tmp_path, 5, 5))
    file = tmp_path / "loop.txt.gz"
    file.write_bytes(gzip.compress(f"Wed Nov 25 14:30:21 UTC 2026\n{one}Wed Nov 25 14:40:21 UTC 2026\n{two}".encode()))
    report = trace(file)
    assert (outstanding(report), report["window"]["duration_s"]) == (GROWTH, 600)


@pytest.mark.parametrize("name", ["smaps-3.10-crlf", "smaps-6.6", "procps-X", "sles11", "busybox-x", "grep-anon"])
def test_listings_of_all_kinds_are_reported(trace, name):
    assert outstanding(trace(FILES / f"maps/{name}.txt")) > 4 << 30


def samples():
    """(folder, name, outstanding bytes) of each sample of one moment that says them."""
    for path in sorted(FILES.glob("strace/*.json")):
        expect = json.loads(path.read_text())["expect"]
        if not expect.get("refuse"):
            yield path, expect["mapped_outstanding"] + expect["brk_growth"]
    for path in sorted(FILES.glob("maps/*.json")):
        expect = json.loads(path.read_text())["expect"]
        if "second" not in expect and expect.get("mapped_kb"):
            yield path, (expect["mapped_kb"] - expect["no_access_kb"]) << 10


@pytest.mark.parametrize(("sample", "n_bytes"), list(samples()), ids=lambda value: getattr(value, "stem", ""))
def test_each_sample_has_its_outstanding_memory(trace, sample, n_bytes):
    files = json.loads(sample.read_text())["file"]
    report = trace(*(sample.parent / name for name in ([files] if isinstance(files, str) else files)))
    assert outstanding(report) == n_bytes


def test_files_of_ff_are_one_trace(trace):
    report = trace(*sorted((FILES / "strace").glob("ff-per-thread.5*")))
    assert (report["target"]["pid"], outstanding(report)) == (5687, 50417664)


def test_killed_target_on_stderr_is_no_empty_report(trace):
    report = trace(FILES / "strace/stderr-oom-killed.txt")
    assert (report["target"]["pid"], report["target"]["end"]) == (5687, "killed")
    assert outstanding(report) == 50417664 + 135168


def test_lines_that_make_no_sense_are_said_first(trace, tmp_path):
    file = tmp_path / "pasted.txt"
    lines = [*(FILES / "strace/o-f.txt").read_text().splitlines(), "5702 mmap(NULL, 4096, \\"]
    file.write_text("".join(f"{line}\n" for line in lines))
    text = trace(file, report_format="text")
    assert f"ATTENTION    1 of {len(lines)} lines made no sense, first: mmap(NULL, 4096, \\" in text
    assert "Nothing was lost" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nmt/jdk11-summary.txt", ["it is Native Memory Tracking", "nativeleak triage --input"]),
        ("oom/k313-global.log", ["log with OOM kills", "nativeleak oom --log"]),
        ("strace/not-c-summary.txt", ["summary of strace -c", "record calls"]),
        ("strace/not-perf-trace.txt", ["output of perf trace", "record with strace"]),
        ("maps/smaps-rollup.txt", ["smaps_rollup"]),
    ],
)
def test_files_of_other_kinds_are_named_with_the_command_that_reads_them(trace, name, words):
    status, error = trace(FILES / name)
    assert status == 1
    assert all(word in error for word in words), error
