"""The rows of the registry, and the table of the docs that is made of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nativeleak.engines.registry import AUTO, ENGINES, NAMES, by_name, candidates, coverage_of, fallback_notice
from nativeleak.errors import NoTargetError
from nativeleak.model import StackCoverage

DOCS = Path(__file__).parents[3] / "docs" / "engines.md"
STACKS = {StackCoverage.ALL: "yes", StackCoverage.SOME: "where it can walk them", StackCoverage.NONE: "no"}


def row_of_docs(spec):
    lasts = "until Ctrl-C" if spec.default_duration_s is None else f"{spec.default_duration_s:.0f} s"
    coverage = spec.coverage
    cells = (
        f"`{spec.name}`",
        f"`{spec.backend}`",
        STACKS[coverage.stacks],
        "yes" if coverage.has_threads else "no",
        "yes" if coverage.has_blocks else "no",
        coverage.not_available or "-",
        lasts,
    )
    return f"| {' | '.join(cells)} |"


def test_table_of_the_docs_has_the_engines_of_the_registry_in_their_order():
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `") and "| `" in line[3:]]
    assert rows == [row_of_docs(spec) for spec in ENGINES]


def test_names_and_backends_are_distinct_and_stay():
    assert NAMES == ("auto", "libbpf", "bcc", "strace", "pmap")
    assert [spec.backend for spec in ENGINES] == ["bpf-libbpf", "bpf-bcc", "strace", "pmap"]


def test_candidates_of_auto_are_all_of_a_name_that_one():
    assert candidates(AUTO) == ENGINES
    assert candidates("pmap") == (by_name("pmap"),)


def test_coverage_of_an_unknown_backend_is_that_of_the_best():
    assert coverage_of("pmap") == by_name("pmap").coverage
    assert coverage_of("from the future") == ENGINES[0].coverage


def test_fallback_notice_says_why_and_what_is_not_available():
    assert fallback_notice(by_name("pmap"), "no rights") == (
        "falling back to pmap (no rights); not available: call stacks, threads and single allocations"
    )


def test_first_engine_lacks_nothing_and_every_other_says_what_it_lacks():
    assert not ENGINES[0].coverage.not_available
    assert all(spec.coverage.not_available for spec in ENGINES[1:])


def test_obstacle_of_a_process_that_is_gone_is_no_obstacle_of_the_engine():
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(NoTargetError):
        by_name("pmap").obstacle((process.pid,))


def test_obstacle_of_pmap_is_none_for_a_process_of_ones_own():
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert by_name("pmap").obstacle((process.pid,)) == ""
        finally:
            process.kill()
    assert "nativeleak itself" in by_name("pmap").obstacle((os.getpid(),))
