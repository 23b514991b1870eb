"""Every allocator that a process can have: preloaded, linked in, loaded later, called through C++."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from nativeleak.process.procfs import read_maps
from support import Target, Trace, eventually, mismatches, preload, seen_as, strangers, sums, totals
from tools.check_report import check


def exact(report, everything, truth):
    """Hold both reports of a trace against a truth in which every call of the heap is; what an allocator or a loader
    maps is its own business."""
    assert check(report) == []
    assert check(everything) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert [line for line in strangers(report, truth) if line.startswith("heap")] == []
    assert totals(report, "heap") == sums(truth, "heap")
    lost = {name: n for name, n in report["completeness"].items() if n and name.startswith(("lost", "unmatched"))}
    assert lost == {}


@pytest.mark.parametrize(
    ("allocator", "library"),
    [("jemalloc", "libjemalloc.so.2"), ("tcmalloc", "libtcmalloc_minimal.so.4"), ("mimalloc", "libmimalloc.so.2")],
)
def test_preloaded_allocator_is_exact(allocator, library):
    with Target("portable", env=preload(allocator)) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    exact(report, everything, truth)
    assert any(name.startswith(library) for name in report["target"]["allocators"])
    # What the allocator mapped is inside its blocks: in no total.
    assert totals(report, "map") == totals(report, "brk") == dict.fromkeys(totals(report, "map"), 0)
    by_allocator = {
        row["frames"][0]["module"] for row in report["sites"] if row["kind"] == "heap" and row["outstanding_count"]
    }
    assert {name.split(".so")[0] for name in by_allocator} == {library.split(".so")[0]}


@pytest.mark.parametrize(
    ("name", "allocator"),
    [("portable", "libc.so.6"), ("musl", "libc.so"), ("musl_static", "musl_static"), ("static", "static")],
)
def test_libc_linked_in_any_way_is_exact(name, allocator):
    with Target(name) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    exact(report, everything, truth)
    assert report["target"]["allocators"] == [allocator]
    assert totals(report, "map") == totals(report, "brk") == dict.fromkeys(totals(report, "map"), 0)


def test_static_program_without_symbols_is_refused_with_what_to_do():
    with Target("static_stripped") as target, Trace(target, attaches=False) as trace:
        assert trace.wait_end() == 3
        assert not trace.recording.exists()
    first, remedy = trace.stderr.splitlines()
    assert first.startswith(f"nativeleak: trace of PID {target.pid} (portable) failed: no allocator functions")
    assert "--maps-only" in remedy
    assert trace.stdout == ""


def test_static_program_without_symbols_by_maps_only_equals_what_the_kernel_has_mapped():
    with Target("static_stripped") as target, Trace(target, options=["--maps-only"]) as trace:
        before = read_pages(target.pid)
        target.go()
        after = read_pages(target.pid)
        report = trace.stop()
    new = [accessible for page, accessible in after.items() if page not in before]
    mapped = report["totals"]["map"]
    assert check(report) == []
    assert (mapped["outstanding_bytes"], mapped["reserved_bytes"]) == (4096 * new.count(True), 4096 * new.count(False))
    assert mapped["outstanding_bytes"] > 5242907
    assert report["mode"]["probes"] == ["mmap", "brk"]
    assert report["target"]["allocators"] == []
    assert totals(report, "heap") == totals(report, "brk") == dict.fromkeys(totals(report, "heap"), 0)
    assert {frame["kind"] for row in report["sites"] for frame in row["frames"]} == {"unresolved"}
    assert all(row["frames"][0]["function"].startswith("0x") for row in report["sites"])


def read_pages(pid):
    """Every page that is mapped, by number, and whether it may be accessed."""
    return {
        page: entry.perms[:3] != "---"
        for entry in read_maps(pid)
        if not entry.path.startswith("[vsyscall")
        for page in range(entry.start >> 12, entry.end >> 12)
    }


def read_notes(recording):
    """What a recording, which may be growing, says has happened so far."""
    with closing(sqlite3.connect(f"file:{recording}?mode=ro", uri=True)) as db:
        return "\n".join(text for (text,) in db.execute("SELECT text FROM events"))


def test_allocator_loaded_during_the_trace_is_exact_from_then_on():
    with Target("dlopen_alloc") as target, Trace(target, options=["--interval", "0.1s"]) as trace:
        target.send("load")
        assert target.readline() == "LOADED"
        eventually(lambda: "liballoc2.so" in read_notes(trace.recording), "probes in the second allocator")
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert report["target"]["allocators"] == ["libc.so.6", "liballoc2.so"]
    # What dlopen itself keeps is not in the truth; nothing of it comes from the second allocator.
    second = [row["functions"] for row in report["sites"] if row["frames"][0]["module"] == "liballoc2.so"]
    assert sorted(second) == [["calloc"], ["malloc"], ["posix_memalign"], ["realloc"]]
    assert report["completeness"]["lost_events"] == 0


# Of a walk by frame pointers operator new hides its caller.
NEW = dict.fromkeys(
    (
        "cxx_new",
        "cxx_new_array",
        "cxx_new_nothrow",
        "cxx_new_aligned",
        "cxx_new_deleted",
        "cxx_sized_delete",
        "cxx_string",
        "cxx_vector",
        "cxx_map",
        "depot::Shelf<int>::stock",
    ),
    "operator new",
)


def test_cxx_operators_and_containers_are_exact():
    with Target("cxx") as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    exact(report, everything, seen_as(truth, NEW))
    wanted = [(s["outstanding_bytes"], s["outstanding_count"]) for s in truth["sites"] if s["outstanding_count"]]
    found = [(row["outstanding_bytes"], row["outstanding_count"]) for row in report["sites"]]
    assert sorted(found) == sorted(wanted)
    names = {frame["function"] for row in report["sites"] for frame in row["frames"]}
    assert "operator new(unsigned long)" in names
    assert "operator new(unsigned long, std::align_val_t)" in names
    assert not any(name.startswith("_Z") for name in names)
