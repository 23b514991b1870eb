"""Allocators under changed names, against the sizes that a program asked each of their functions for."""

from __future__ import annotations

import pytest

from support import Target, Trace, mismatches, preload
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
