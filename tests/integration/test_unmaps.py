"""Who gave mapped memory back: by caller and thread, to the byte, apart from what allocators and the C library do."""

from __future__ import annotations

from typing import Any

import pytest

from nativeleak.engines.bpf.kernel.loaders.bcc import has_bcc
from support import (
    IS_LONG,
    START_TIMEOUT_S,
    WITHOUT_BTF,
    WITHOUT_TRACEFS,
    Report,
    Target,
    TargetError,
    Trace,
    Truth,
    require,
)
from tools.check_report import check

PAGE_BYTES = 4096
COMPILES_S = 4 * START_TIMEOUT_S
SUMS = ("calls", "freed_bytes", "other_threads_bytes", "reserved_bytes", "older_bytes")
CALLS = {"gives_segment": "shmdt", "cuts": "mremap"}
"""Giver -> what it calls, where that is not munmap."""
RAW = {"capabilities": ("bpf", "perfmon", "sys_ptrace", "dac_read_search"), "within": WITHOUT_TRACEFS}
"""With these capabilities tracefs cannot be mounted: system calls are seen by raw tracepoints."""


def traced(name: str, *options: str, **how: Any) -> tuple[Truth, Report]:
    """The target's truth and the report."""
    with Target(name) as target, Trace(target, options=options, **how) as trace:
        truth = target.go()
        report = trace.stop()
    assert check(report) == []
    assert report["completeness"]["lost_events"] == report["completeness"]["unmap_sites_full"] == 0
    return truth, report


def given_by(report: Report, owner: str) -> list[dict[str, object]]:
    return [row for row in report["unmapped"] if row["owner"] == owner]


def sums(rows: list[dict[str, object]]) -> dict[str, int]:
    return {key: sum(row[key] for row in rows) for key in SUMS}


def assert_givers_exact(truth: Truth, report: Report) -> None:
    """Each giver of the truth has its rows, and no row of the program is another's."""
    left = given_by(report, "program")
    for giver in truth["givers"]:
        rows = [
            row
            for row in left
            if row["thread"] == {"tid": giver["tid"], "name": giver["thread"]}
            and giver["function"] in [frame["function"] for frame in row["frames"]]
        ]
        left = [row for row in left if row not in rows]
        assert sums(rows) == {key: giver[key] for key in SUMS}, giver
        for row in rows:
            assert row["functions"] == [CALLS.get(giver["function"], "munmap")]
            assert row["stack_end"] == "root"
    assert [[frame["function"] for frame in row["frames"]] for row in left] == []


def assert_allocators_apart(truth: Truth, report: Report) -> None:
    given = sums(given_by(report, "allocator"))
    block_bytes = -(-truth["block_bytes"] // PAGE_BYTES) * PAGE_BYTES
    assert given["calls"] >= truth["n_blocks"]
    # A block has a header, and room for its alignment.
    for_blocks = truth["n_blocks"] * block_bytes
    assert for_blocks <= given["freed_bytes"] <= for_blocks + given["calls"] * 2 * PAGE_BYTES


def assert_threads_apart(truth: Truth, report: Report) -> None:
    rows = given_by(report, "c-library")
    given = sums(rows)
    assert given["calls"] == truth["n_stacks"]
    whole = given["freed_bytes"] + given["reserved_bytes"]
    stacks = truth["n_stacks"] * truth["stack_bytes"]
    assert stacks <= whole <= stacks + truth["n_stacks"] * 16 * PAGE_BYTES
    assert {frame["function"] for row in rows for frame in row["frames"]} >= {"ends_threads", "main"}


@pytest.mark.parametrize("name", ["unmaps", "unmaps_nofp", "unmaps_musl", "unmaps_static"])
def test_callers_that_give_back_are_exact_by_caller_and_thread(name):
    truth, report = traced(name)
    assert_givers_exact(truth, report)
    assert_threads_apart(truth, report)
    assert_allocators_apart(truth, report)


@pytest.mark.parametrize("mode", ["session", "multi", "perf", "tracefs"] if IS_LONG else ["multi", "tracefs"])
def test_callers_that_give_back_are_exact_attached_in_each_mode(mode):
    with Target("unmaps") as target:
        try:
            trace = Trace(target, options=["--attach", mode, "--engine", "libbpf"])
        except TargetError as error:
            require("loading the BPF programs failed" not in str(error), f"this kernel cannot attach by {mode}")
            raise
        with trace:
            truth = target.go()
            report = trace.stop()
    assert_givers_exact(truth, report)
    assert_allocators_apart(truth, report)


def test_callers_that_give_back_are_exact_by_frame_pointers():
    truth, report = traced("unmaps", "--unwind", "fp")
    assert_givers_exact(truth, report)
    assert_allocators_apart(truth, report)


def test_callers_that_give_back_are_exact_on_bcc():
    require(has_bcc(), "not installed: python3-bpfcc")
    truth, report = traced("unmaps", "--engine", "bcc", timeout_s=COMPILES_S)
    assert_givers_exact(truth, report)
    assert_allocators_apart(truth, report)


def test_memory_given_back_is_exact_where_the_kernel_does_not_describe_its_types():
    require(has_bcc(), "not installed: python3-bpfcc")
    truth, report = traced("unmaps", "--engine", "bcc", timeout_s=COMPILES_S, within=WITHOUT_BTF)
    # The callers of munmap are hidden there.
    given = sums([row for row in report["unmapped"] if row["owner"] != "allocator"])
    assert given["calls"] == sum(giver["calls"] for giver in truth["givers"]) + truth["n_stacks"]
    assert given["older_bytes"] == sum(giver["older_bytes"] for giver in truth["givers"])
    assert_allocators_apart(truth, report)


def test_callers_that_find_no_room_are_counted_and_their_bytes_kept():
    with Target("unmaps") as target, Trace(target, options=["--max-sites", 16]) as trace:
        truth = target.go()
        report = trace.stop()
    rows = given_by(report, "program")
    others = [row for row in rows if row["thread"]["tid"] == 0]
    assert sum(row["calls"] for row in others) == report["completeness"]["unmap_sites_full"] > 0
    given = sums([row for row in report["unmapped"] if row["owner"] != "allocator"])
    assert given["older_bytes"] == sum(giver["older_bytes"] for giver in truth["givers"])
    assert given["calls"] == sum(giver["calls"] for giver in truth["givers"]) + truth["n_stacks"]


@pytest.mark.parametrize("how", [{}, RAW], ids=["tracepoints", "raw"])
def test_callers_that_give_back_are_exact_by_maps_only(how):
    truth, report = traced("unmaps", "--maps-only", "--engine", "libbpf", **how)
    assert_threads_apart(truth, report)
    # Without its probes the allocator's calls are those of a library.
    own = [row for row in report["unmapped"] if "frees_blocks" not in [frame["function"] for frame in row["frames"]]]
    assert_givers_exact(truth, report | {"unmapped": own})
    assert given_by(report, "allocator") == []
