"""What ``trace`` makes of its options before anything is attached."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nativeleak.cli.main import run
from nativeleak.cli.trace import default_interval_s


@pytest.mark.parametrize(
    ("duration_s", "interval_s"), [(None, 10.0), (3600.0, 10.0), (200.0, 10.0), (20.0, 1.0), (4.0, 0.2), (0.5, 0.1)]
)
def test_default_interval_gives_a_short_trace_snapshots_enough(duration_s, interval_s):
    assert default_interval_s(duration_s) == interval_s


@pytest.mark.parametrize(
    "arguments",
    [
        ["--duration", "soon"],
        ["--duration", "0"],
        ["--duration", "9999d"],
        ["--interval", "0.01s"],
        ["--min-size", "64Q"],
        ["--min-size", "64K", "--max-size", "1K"],
        ["--max-allocations", "5"],
        ["--format", "xml"],
        ["--unwind", "magic"],
        ["--sample", "often"],
    ],
)
def test_nonsense_is_a_usage_error_in_one_line_with_what_to_do(arguments, capsys):
    assert run(["trace", "-p", "1", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nativeleak: ")
    assert "Traceback" not in captured.err


def test_distance_by_the_budget_without_a_budget_says_what_to_give(capsys):
    assert run(["trace", "-p", "1", "--sample", "auto", "--max-overhead", "off"]) == 2
    error = capsys.readouterr().err
    assert "no budget to choose the distance of samples from" in error
    assert "--max-overhead 5%" in error
    assert "--sample 512K" in error


def test_missing_pid_says_how_to_give_one(capsys):
    assert run(["trace"]) == 2
    error = capsys.readouterr().err
    assert "--pid" in error
    assert "nativeleak trace --help" in error


def test_recorder_loads_nothing_that_only_reports_need():
    code = (
        "import sys, nativeleak.cli.main, nativeleak.cli.trace, nativeleak.cli.final_report; "
        "import nativeleak.engines.bpf.engine; "
        "heavy = {'nativeleak.recording.reader', 'pycxxfilt', 'tempfile', 'tomllib', 'traceback', 'numpy', 'rich'}; "
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
