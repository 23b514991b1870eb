"""One recording, every form of report: all of them tell the same sums."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from nativeleak.cli.main import run
from nativeleak.units import format_bytes
from support import Target, Trace, seen_as
from support.page import figures
from support.page import outstanding as page_outstanding
from tools.check_report import check

STRDUP = {"heap_strdup": "strdup"}


class Recorded:
    """The battery, traced once: its truth, the report that the trace printed, the recording."""

    def __init__(self, path):
        self.path = path
        with Target("battery") as target, Trace(target, output=path, options=["--interval", "0.2s"]) as trace:
            self.truth = seen_as(target.go(), STRDUP)
            self.report = trace.stop()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return Recorded(tmp_path_factory.mktemp("report") / "battery.nlk")


@pytest.fixture
def report(recorded, capfd):
    """Run ``nativeleak report`` on the recording; what it prints."""

    def run_report(*arguments, status=0):
        assert run(["report", str(recorded.path), *map(str, arguments)]) == status
        out, err = capfd.readouterr()
        assert status or err == ""
        return out if not status else err

    return run_report


def outstanding(rows):
    return sum(row["outstanding_bytes"] for row in rows), sum(row["outstanding_count"] for row in rows)


def test_json_report_of_the_file_is_the_one_the_trace_printed(recorded, report):
    again = json.loads(report("--format", "json"))
    assert check(again) == []
    assert again == recorded.report


def test_text_report_has_the_totals_the_threads_and_the_sites(recorded, report):
    text = report("--top", 1000)
    totals = recorded.report["totals"]
    whole = sum(totals[kind]["outstanding_bytes"] for kind in totals)
    heap = totals["heap"]
    lines = text.splitlines()
    assert lines[0].startswith(f"battery (PID {recorded.report['target']['pid']}) ")
    answer = " ".join(text.split("Call paths")[0].split())
    assert f"Outstanding {format_bytes(whole)} of " in answer
    assert f"heap {format_bytes(heap['outstanding_bytes'])} in {heap['outstanding_count']:,} blocks" in answer
    for thread in recorded.report["threads"]:
        pattern = (
            rf" {re.escape(format_bytes(thread['outstanding_bytes']))} +{thread['outstanding_count']:,} +"
            rf"alive +{thread['tid']} +{re.escape(thread['name'])}$"
        )
        assert re.search(pattern, text, re.MULTILINE), pattern
    for site in recorded.truth["sites"]:
        if site["outstanding_bytes"]:
            assert site["function"] in text
    assert "unmatched" not in text
    assert f"{recorded.report['completeness']['unmatched_frees']} frees were of blocks older than the trace" in text


def test_folded_report_adds_up_to_the_totals_of_each_thread(recorded, report):
    sums = Counter()
    for line in report("--format", "folded").splitlines():
        stack, value = line.rsplit(" ", 1)
        sums[stack.split(";")[0]] += int(value)
    wanted = {thread["name"]: thread["outstanding_bytes"] for thread in recorded.report["threads"]}
    assert sums == wanted


def test_html_report_adds_up_to_the_totals_of_each_thread_and_site(recorded, report):
    page = report("--format", "html")
    sums = Counter()
    for (thread, _), n_bytes in page_outstanding(page).items():
        sums[thread] += n_bytes
    assert sums == {
        row["name"]: row["outstanding_bytes"] for row in recorded.report["threads"] if row["outstanding_bytes"]
    }
    _, columns = figures(page)
    assert sum(columns["row_bytes"].tolist()) == outstanding(recorded.report["sites"])[0]
    assert sum(columns["row_blocks"].tolist()) == outstanding(recorded.report["sites"])[1]


@pytest.mark.parametrize(
    ("metric", "key"),
    [("allocated", "allocated_bytes"), ("count", "outstanding_count"), ("resident", "resident_bytes")],
)
def test_folded_report_counts_what_is_asked_for(recorded, report, metric, key):
    lines = report("--format", "folded", "--metric", metric).splitlines()
    totals = json.loads(report("--format", "json", "--metric", metric))
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == sum(row[key] or 0 for row in totals["sites"])


@pytest.mark.parametrize("by", ["site", "thread", "site,thread"])
def test_report_by_any_key_keeps_the_sums(recorded, report, by):
    merged = json.loads(report("--format", "json", "--by", by))
    rows = merged["sites"]
    assert merged["totals"] == recorded.report["totals"]
    for kind in ("heap", "map", "brk"):
        whole = merged["totals"][kind]
        of_kind = [row for row in rows if row["kind"] == kind]
        assert outstanding(of_kind) == (whole["outstanding_bytes"], whole["outstanding_count"])
    n_threads = len({row["thread"]["tid"] for row in recorded.report["sites"]})
    n_stacks = len({(row["kind"], row["id"]) for row in recorded.report["sites"]})
    if by == "site":
        assert len(rows) == n_stacks
        assert Counter(row["threads"] for row in rows) != {}
        assert sum(row["threads"] for row in rows) == len(recorded.report["sites"])
    elif by == "thread":
        assert len(rows) == 2 * n_threads  # heap and map
        by_tid = Counter()
        for row in rows:
            by_tid[row["thread"]["tid"]] += row["outstanding_bytes"]
        assert by_tid == {thread["tid"]: thread["outstanding_bytes"] for thread in recorded.report["threads"]}
    else:
        assert check(merged) == []


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        ("outstanding", "outstanding_bytes"),
        ("allocated", "allocated_bytes"),
        ("count", "outstanding_count"),
        ("resident", "resident_bytes"),
    ],
)
def test_report_by_metric_is_in_its_order_and_top_keeps_the_first(report, metric, key):
    rows = json.loads(report("--format", "json", "--metric", metric))["sites"]
    values = [row[key] if row[key] is not None else -1 for row in rows]
    assert values == sorted(values, reverse=True)
    top = json.loads(report("--format", "json", "--metric", metric, "--top", 7))
    assert top["sites"] == rows[:7]
    assert (top["filtered"], top["shown"]["sites"], top["shown"]["of"]) == (True, 7, len(rows))


def test_report_by_growth_is_in_the_order_of_the_slope(report):
    rows = json.loads(report("--format", "json", "--metric", "growth"))["sites"]
    slopes = [row["growth"]["slope_bytes_per_s"] for row in rows]
    assert slopes == sorted(slopes, reverse=True)


def test_report_with_a_least_size_leaves_smaller_rows_out(recorded, report):
    rows = json.loads(report("--format", "json", "--min", "64K"))["sites"]
    wanted = [row for row in recorded.report["sites"] if row["outstanding_bytes"] >= 65536]
    assert 0 < len(wanted) < len(recorded.report["sites"])
    assert rows == wanted


@pytest.mark.parametrize("how", ["tid", "glob", "regex"])
def test_report_of_a_thread_has_its_rows_alone(recorded, report, how):
    tid = next(thread["tid"] for thread in recorded.report["threads"] if thread["name"] == "order-cache")
    pattern = {"tid": tid, "glob": "order-*", "regex": "/^order.c/"}[how]
    filtered = json.loads(report("--format", "json", "--thread", pattern))
    assert filtered["sites"] == [row for row in recorded.report["sites"] if row["thread"]["tid"] == tid]
    assert check(filtered) == []
    held = sum(row["outstanding_bytes"] for row in filtered["sites"])
    assert sum(filtered["totals"][kind]["outstanding_bytes"] for kind in filtered["totals"]) == held


def test_report_of_a_function_has_the_stacks_through_it(recorded, report):
    rows = json.loads(report("--format", "json", "--function", "^map_remap"))["sites"]
    wanted = [
        row
        for row in recorded.report["sites"]
        if any(frame["function"].startswith("map_remap") for frame in row["frames"])
    ]
    assert wanted
    assert rows == wanted


def test_report_of_nothing_that_matches_says_so(recorded, report):
    assert json.loads(report("--format", "json", "--thread", "nobody"))["sites"] == []
    assert report("--format", "folded", "--function", "no_such_function") == ""
    assert "no regular expression" in report("--function", "(", status=2)


def test_report_into_a_file_is_readable_by_its_owner_alone(recorded, report, tmp_path):
    out = tmp_path / "report.json"
    assert report("--format", "json", "-o", out) == ""
    assert json.loads(out.read_text()) == recorded.report
    assert out.stat().st_mode & 0o777 == 0o600


def test_report_of_several_recordings_has_each_under_its_name(recorded, report, tmp_path):
    copy = tmp_path / "copy.nlk"
    copy.write_bytes(recorded.path.read_bytes())
    text = report(copy, "--each", "--all")
    assert [text.count(f"# {path}:\n") for path in (recorded.path, copy)] == [1, 1]
    assert text.count("Threads that hold outstanding memory") == 2
    assert "one JSON object" in report(copy, "--each", "--format", "json", status=2)
