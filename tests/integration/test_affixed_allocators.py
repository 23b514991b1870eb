"""Allocators under changed names, against the sizes that a program asked each of their functions for."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from support import Target, Trace, mismatches, preload, target_path
from tools.check_report import check


def functions_of(report, site):
    rows = [row for row in report["sites"] if any(frame["function"] == site for frame in row["frames"])]
    return {name for row in rows for name in row["functions"]}


@pytest.mark.parametrize(
    ("library", "prefix", "suffix", "options"),
    [
        ("libfamily.so", "_fam_", "_v2", ()),
        ("libfamily.so", "acme_", "", ("--allocator", "acme_")),
        ("libmimalloc.so.2", "mi_", "", ()),
        ("libmimalloc.so.2", "mi_", "", ("--returns", "exits")),
        ("libtcmalloc_minimal.so.4", "tc_", "", ()),
        ("libjemalloc.so.2", "", "", ()),
    ],
)
def test_every_function_of_a_family_is_exact(library, prefix, suffix, options):
    env = preload("jemalloc") if "jemalloc" in library else {}
    with Target("affixed", library, prefix, suffix, env=env) as target, Trace(target, options=options) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth, ("heap",)) == []
    assert mismatches(everything, truth, ("heap",)) == []
    assert report["completeness"]["unmatched_frees"] == 0
    assert {name.removeprefix(prefix).removesuffix(suffix) for name in functions_of(report, "remake")} >= {"realloc"}


def read_text(trace):
    return subprocess.run(
        [sys.executable, "-m", "nativeleak", "report", str(trace.recording)], capture_output=True, text=True, check=True
    ).stdout


def test_family_that_no_rule_proves_is_named_and_not_watched():
    with Target("affixed", "libfamily.so", "acme_", "") as target, Trace(target) as trace:
        target.go()
        report = trace.stop()
        text = read_text(trace)
    assert check(report) == []
    assert [(each["object"], each["prefix"]) for each in report["unwatched"]] == [("libfamily.so", "acme_")]
    assert "--allocator acme_" in report["unwatched"][0]["why"]
    assert any(line.startswith("NOT WATCHED") for line in text.splitlines()[1:4])
    assert "Nothing was lost" not in text


def test_allocator_that_the_user_names_but_no_object_has_is_said():
    with Target("inside") as target, Trace(target, options=("--allocator", "nobody_*_x")) as trace:
        truth = target.go()
        report = trace.stop()
    assert mismatches(report, truth, ("heap",)) == []
    assert "--allocator nobody_*_x: no mapped object defines functions such as nobody_malloc_x" in trace.stderr


@pytest.mark.parametrize("names", ["own", "debug file", "none"])
def test_allocator_inside_a_program_is_watched_or_said_not_to_be(names, tmp_path):
    program = tmp_path / "inside"
    shutil.copy(target_path("inside"), program)
    if names != "own":
        subprocess.run(["objcopy", "--only-keep-debug", program, tmp_path / "inside.debug"], check=True)
        subprocess.run(["strip", "-s", program], check=True)
    if names == "debug file":
        link = "--add-gnu-debuglink=inside.debug"
        subprocess.run(["objcopy", link, "inside"], check=True, cwd=tmp_path)
    with Target("inside", command=[program]) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        text = read_text(trace)
    assert check(report) == []
    lost = any(line.startswith("  Nothing was lost") for line in text.splitlines())
    if names == "none":
        assert [(each["object"], each["allocator"]) for each in report["unwatched"]] == [("inside", "jemalloc")]
        assert not lost
    else:
        assert mismatches(report, truth, ("heap",)) == []
        assert [each["prefix"] for each in report["unwatched"]] == ["acme_"]
