"""Sampling: estimates against what a target knows of itself.

Each thread and function of the target is a site with an estimate of its own: one trace gives a hundred of them. Bounds
are such that a right sampler fails once in some ten thousand runs.
"""

from __future__ import annotations

import math
import os
from typing import Any

import pytest

from support import Target, Trace, mismatches

RATE = 64 << 10
N_THREADS = 16
N_REPEATS = int(os.environ.get("NATIVELEAK_TEST_SAMPLING_REPEATS", "1"))
BIG = "mixed_big"
OPTIONS = ("--sample", "64K", "--max-overhead", "off")


def estimates(report: dict[str, Any], truth: dict[str, Any]) -> list[tuple[int, int, tuple[float, float]]]:
    """Of every sampled site: outstanding bytes as estimated, the truth, and the stated bounds."""
    found = []
    for site in truth["sites"]:
        rows = [
            row
            for row in report["sites"]
            if (row["kind"], row["thread"]["tid"]) == (site["kind"], site["tid"])
            and any(frame["function"] == site["function"] for frame in row["frames"])
        ]
        if rows and "sampling" in rows[0]:
            [row] = rows
            low, high = row["sampling"]["outstanding_bytes_ci95"]
            found.append((row["outstanding_bytes"], site["outstanding_bytes"], (low, high)))
    return found


def deviation(report: dict[str, Any], truth: dict[str, Any], key: str) -> float:
    """How far the sum over the sampled sites is from the truth, in standard deviations as stated for the total."""
    low, high = report["totals"]["heap"]["sampling"][f"outstanding_{key}_ci95"]
    whole = sum(site[f"outstanding_{key}"] for site in truth["sites"])
    return float((report["totals"]["heap"][f"outstanding_{key}"] - whole) / ((high - low) / 2 / 1.96))


def test_blocks_from_sample_above_on_are_exact_though_the_distance_is_larger() -> None:
    with Target("mixed", 503, 2) as target, Trace(target, options=[*OPTIONS, "--sample-above", "1"]) as trace:
        truth = target.go()
        report = trace.stop()
    assert report["mode"]["sample_bytes"] == RATE
    assert mismatches(report, truth) == []


@pytest.mark.parametrize("name", ["mixed", "mixed_musl"])
def test_estimates_are_unbiased_and_lie_in_their_stated_bounds(name: str) -> None:
    deviations, inside = [], []
    for _ in range(N_REPEATS):
        with Target(name, 2003, N_THREADS) as target, Trace(target, options=OPTIONS) as trace:
            truth = target.go()
            report = trace.stop()
        assert report["mode"]["sampled"]
        assert report["mode"]["sample_bytes"] == RATE
        # Blocks of at least the rate are kept for certain.
        assert mismatches(report, {"sites": [s for s in truth["sites"] if s["function"] == BIG]}) == []
        deviations += [deviation(report, truth, key) for key in ("bytes", "count")]
        inside += [low <= true <= high for _, true, (low, high) in estimates(report, truth)]
        assert report["completeness"]["unmatched_frees"] == 0
        assert report["completeness"]["unsampled_frees"] > 0
    mean = sum(deviations) / len(deviations)
    assert abs(mean) < 4 / math.sqrt(len(deviations) / 2), deviations
    assert len(inside) > 4 * N_THREADS * N_REPEATS
    expected, spread = 0.95 * len(inside), math.sqrt(0.95 * 0.05 * len(inside))
    assert sum(inside) >= expected - 4 * spread, (sum(inside), len(inside))


def test_nested_calls_of_unsampled_calls_are_no_allocations_of_their_own() -> None:
    """posix_memalign, realloc and calloc of musl allocate by malloc: sampled twice, they would count double."""
    with Target("mixed_musl", 8009, 4) as target, Trace(target, options=("--sample", "16K", *OPTIONS[2:])) as trace:
        truth = target.go()
        report = trace.stop()
    for function in ("mixed_calloc", "mixed_realloc", "mixed_aligned"):
        rows = [r for r in report["sites"] if any(f["function"] == function for f in r["frames"])]
        whole = sum(site["outstanding_bytes"] for site in truth["sites"] if site["function"] == function)
        assert abs(sum(row["outstanding_bytes"] for row in rows) / whole - 1) < 0.25, function
        # Only the function that the program called is the leaf.
        assert {name for row in rows for name in row["functions"]} == {
            {"mixed_calloc": "calloc", "mixed_realloc": "realloc", "mixed_aligned": "posix_memalign"}[function]
        }


def test_large_mapping_of_an_unsampled_malloc_is_not_the_programs_own() -> None:
    """What malloc maps inside of a call whose return was declined is still the allocator's business."""
    with Target("mixed", 2003, 8) as target:
        with Trace(target, options=("--sample", "256M", "--max-overhead", "off")) as trace:
            target.go()
            report = trace.stop()
        assert report["totals"]["map"]["outstanding_bytes"] == 0
        assert report["allocator_backing"]["outstanding_bytes"] > 0
