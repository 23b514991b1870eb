"""Threads: who allocated, by name and tid, whoever frees it, also when the thread is gone."""

from __future__ import annotations

import os
import sys

import pytest

from support import Target, Trace, mismatches, require, strangers, sums, totals
from tools.check_report import check


@pytest.mark.parametrize("arguments", [("race", 10007, 8), ("churn", 10007, 3)])
def test_threads_at_full_speed_stay_exact(arguments):
    with Target(*arguments) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    noise = ("lost_allocations", "unmatched_frees", "overwritten", "abandoned", "failed", "nested")
    assert {name: report["completeness"][name] for name in noise} == dict.fromkeys(noise, 0)


def test_threads_that_ended_or_were_renamed_keep_their_last_name():
    with Target("rename") as target, Trace(target, options=["--interval", "0.1s"]) as trace:
        truth = target.go()
        report = trace.stop()
    assert check(report) == []
    assert mismatches(report, truth) == []
    threads = {thread["tid"]: thread for thread in report["threads"]}
    by_function = {"rename_keep": set(), "rename_short_lived_keep": set()}
    for site in truth["sites"]:
        by_function[site["function"]].add(site["tid"])
        thread = threads[site["tid"]]
        assert (thread["name"], thread["alive"]) == (site["thread"], site["tid"] not in truth["ended"])
        assert (thread["outstanding_bytes"], thread["outstanding_count"]) == (
            site["outstanding_bytes"],
            site["outstanding_count"],
        )
    assert {threads[tid]["name"] for tid in by_function["rename_keep"]} == {"after-1", "after-2"}
    assert sorted(threads[tid]["name"] for tid in truth["ended"]) == [f"short-{i}" for i in range(1, 6)]
    assert by_function["rename_short_lived_keep"] == set(truth["ended"])


def test_blocks_freed_by_another_thread_come_off_the_one_that_allocated():
    with (
        Target("million", 7, 5, 1009) as target,
        Trace(target, options=["--interval", "0.1s"]) as trace,
    ):
        target.go()
        truth = target.ask("free")
        report = trace.stop()
    assert report["sites"] == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert {thread["outstanding_bytes"] for thread in report["threads"]} == {0}


BLOCK_BYTES = 104729
LAST_PID = "/proc/sys/kernel/ns_last_pid"
LIVES = {"life-1": 3, "life-2": 5, "life-3": 7}
REUSE = f"""
import ctypes, json, os, sys, threading

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
lived = {{}}

def live(name, n, wanted):
    tid = threading.get_native_id()
    if wanted in (tid, None):
        libc.prctl(15, name.encode())  # PR_SET_NAME
        for _ in range(n):
            assert libc.malloc({BLOCK_BYTES})
        lived[name] = tid

print("READY", os.getpid(), flush=True)
sys.stdin.readline()
tid = None
for name, n in {LIVES}.items():
    while name not in lived:
        # Another process may be given it first: then once more.
        while tid and os.path.exists(f"/proc/self/task/{{tid}}"):
            pass
        if tid:
            with open("{LAST_PID}", "w") as file:
                file.write(str(tid - 1))
        thread = threading.Thread(target=live, args=(name, n, tid))
        thread.start()
        thread.join()
    tid = lived[name]
print(json.dumps(lived), flush=True)
sys.stdin.readline()
"""


def test_threads_that_get_the_tid_of_an_ended_one_are_told_apart():
    require(os.access(LAST_PID, os.W_OK), "this kernel lets nobody choose a thread id")
    command = [sys.executable, "-c", REUSE]
    with Target("reuse", command=command) as target, Trace(target, options=["--min-size", BLOCK_BYTES]) as trace:
        lived = target.go()
        report = trace.stop()
    (tid,) = set(lived.values())
    rows = [row for row in report["sites"] if row["kind"] == "heap" and row["thread"]["tid"] == tid]
    held = {row["thread"]["name"]: (row["outstanding_bytes"], row["outstanding_count"]) for row in rows}
    assert held == {name: (n * BLOCK_BYTES, n) for name, n in LIVES.items()}
    assert check(report) == []
