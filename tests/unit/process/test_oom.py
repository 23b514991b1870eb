"""Whom the OOM killer takes first. Scores can be raised without rights, so each case runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nativeleak.process.oom import read_oom_score_adj

RAISED = """
import subprocess, sys
from nativeleak.process.oom import read_oom_score_adj, prefer_as_oom_victim
target_adj, own_adj = int(sys.argv[1]), int(sys.argv[2])
def set_own(adj):
    open("/proc/self/oom_score_adj", "w").write(str(adj))
set_own(own_adj)
with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as target:
    open(f"/proc/{target.pid}/oom_score_adj", "w").write(str(target_adj))
    prefer_as_oom_victim([target.pid])
    print(read_oom_score_adj("self"))
"""


@pytest.mark.parametrize(
    ("target_adj", "own_adj", "after"), [(200, 0, 201), (300, 300, 301), (100, 700, 700), (1000, 0, 1000)]
)
def test_stand_before_is_never_behind_a_target(target_adj: int, own_adj: int, after: int):
    if target_adj < own_adj and target_adj < read_oom_score_adj("self"):
        pytest.skip("lowering a score needs a right")
    done = subprocess.run(
        [sys.executable, "-c", RAISED, str(target_adj), str(own_adj)], capture_output=True, text=True, check=False
    )
    if "Permission" in done.stderr:
        pytest.skip("lowering a score needs a right")
    assert done.stdout.split() == [str(after)], done.stderr


def test_score_of_a_process_that_is_gone_is_nothing():
    assert read_oom_score_adj(2**22 + 1) == 0
