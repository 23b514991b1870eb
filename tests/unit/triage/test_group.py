"""Verdicts about control groups, on made-up groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nativeleak.process.charges import GroupCharge
from nativeleak.process.check import TargetFacts
from nativeleak.triage.group import group_line, group_lines
from nativeleak.triage.lines import Ledger, Line
from nativeleak.triage.verdicts import judge

_MIB = 1 << 20
_GROUP = GroupCharge(Path("/sys/fs/cgroup/pod"), 2, {"memory.max": 1000 * _MIB}, 900 * _MIB, anonymous=190 * _MIB)


def _ledger(*charges: GroupCharge) -> Ledger:
    lines = [Line("shared", 10 * _MIB), Line("libraries", 180 * _MIB)]
    return Ledger(
        target=TargetFacts(4711, "app", "/app", 1, 4711, True, True), lines=lines, pieces=[], rss=190 * _MIB, swap=0,
        virtual=1 << 30, status_rss=(0, 0), page_tables=0, huge=0, n_regions=10, n_threads=1, walks=[], java=None,
        groups=[], machine_bytes=1 << 34, notes=[], charges=charges, anonymous=180 * _MIB,
    )  # fmt: skip


def _ids(*charges: GroupCharge) -> list[str]:
    return [verdict.id for verdict in judge(_ledger(*charges))]


@pytest.mark.parametrize(
    ("group", "ids"),
    [
        (_GROUP, []),
        (replace(_GROUP, kernel=200 * _MIB, kernel_parts=(("slab", 190 * _MIB),)), ["group-kernel-memory"]),
        (replace(_GROUP, kernel=20 * _MIB, sockets=180 * _MIB), ["group-kernel-memory"]),
        (replace(_GROUP, version=1, limits={"memory.limit_in_bytes": 1000 * _MIB}, kernel=20 * _MIB,
                 sockets=180 * _MIB), []),
        (replace(_GROUP, page_cache=600 * _MIB), ["group-page-cache"]),
        (replace(_GROUP, page_cache=600 * _MIB, limits={"memory.max": 2000 * _MIB}), []),
        (replace(_GROUP, page_cache=600 * _MIB, limits={}), []),
        (replace(_GROUP, shared_memory=140 * _MIB), []),
        (replace(_GROUP, shared_memory=150 * _MIB), ["group-shared-memory"]),
        (replace(_GROUP, anonymous=700 * _MIB), ["group-other-processes"]),
    ],
)  # fmt: skip
def test_verdicts_name_what_fills_the_group(group: GroupCharge, ids: list[str]) -> None:
    outer = replace(_GROUP, path=Path("/sys/fs/cgroup"), limits={}, anonymous=1 << 34, kernel=1 << 34)
    assert _ids(group, outer) == ids


def test_verdict_looks_at_the_ancestor_with_less_room() -> None:
    outer = replace(_GROUP, path=Path("/sys/fs/cgroup"), usage=990 * _MIB, kernel=500 * _MIB)
    verdict = judge(_ledger(_GROUP, outer))[0]
    assert verdict.text.startswith("The kernel itself holds 500 MiB of the 990 MiB")
    assert "group /sys/fs/cgroup" in verdict.evidence[1]


def test_words_say_kinds_and_limits_and_leave_out_what_is_not_known() -> None:
    limits = {"memory.max": 1000 * _MIB, "memory.high": 950 * _MIB}
    parts = (("slab", 30 * _MIB), ("pagetables", 9 * _MIB))
    group = replace(_GROUP, limits=limits, page_cache=3 * _MIB, kernel=40 * _MIB, kernel_parts=parts, swap=0)
    assert list(group_lines(_ledger(group))) == [
        "cgroup /sys/fs/cgroup/pod: 900 MiB, limit 1000 MiB, memory.high 950 MiB: anonymous 190 MiB, page cache 3 MiB, "
        "kernel 40 MiB",
        "cgroup /sys/fs/cgroup/pod: kernel: slab 30 MiB, page tables 9 MiB",
    ]
    assert group_line(_ledger(group)) == (
        "control group: 900 MiB charged: anonymous 190 MiB, page cache 3 MiB, kernel 40 MiB"
    )
    assert group_line(_ledger(replace(group, limits={}))) is None
