"""Who holds native memory, on real processes that know it: lost blocks, holders, classes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nativeleak.heaps.memory import HeapError
from nativeleak.holders import helper, run
from nativeleak.holders.result import HoldersReport
from nativeleak.holders.run import Options, find_who_holds
from support.held import Judgement, judge, read_held
from support.machine import preload
from support.target import Target

# Most bytes between the start of a slot of musl and the program's address in it.
_MUSL_OFFSET = 4096
_GRADES = {"xor list", "compressed", "encrypted"}


def _look(pid: int, **options: Any) -> HoldersReport:
    return find_who_holds(pid, Options(**{"gap_s": 0.2, **options}))


def _judged(path: Path, *arguments: object, **options: Any) -> tuple[HoldersReport, Judgement]:
    with Target("held", path, *arguments) as target:
        before = read_held(path)
        report = _look(target.pid, **options)
    return report, judge(report, before, path)


def _holders(report: HoldersReport) -> dict[str, tuple[int, int]]:
    """Blocks of each holder, and those that it alone reaches."""
    return {each.label.name: (each.n_blocks, each.exclusive_blocks) for each in report.holders}


def test_every_kind_of_holding_is_followed_and_lost_blocks_are_found_at_rest(tmp_path: Path) -> None:
    report, judged = _judged(tmp_path / "truth", 0)
    assert judged.false == Counter()
    assert judged.n_found >= 0.999 * judged.n_lost > 40_000
    assert judged.hidden == Counter(), "pointers in other forms are a grade of their own"
    hidden = report.grade("hidden")
    assert hidden is not None
    assert hidden.n_blocks == 2003 + 1999 + 101
    lost = report.grade("lost")
    assert lost is not None
    assert lost.certainty == "proven"
    holders = _holders(report)
    assert holders["g_array in held"] == (2004, 2004)
    assert holders["g_tree in held"][0] == 2 * 2003
    assert holders["g_interior in held"] == (2003, 2003)
    assert holders["g_low in held"] == holders["g_high in held"] == (2003, 2003)
    assert holders["g_packed in held"][0] == 503
    assert holders["thread spinner"][0] >= 23
    assert holders["thread sleeper"][0] >= 23 + 53 + 1
    assert sum(n for name, (n, _) in holders.items() if name.startswith("events of epoll")) == 101
    assert holders["timer"][0] == 101


@pytest.mark.parametrize("initialises", [1, 0])
def test_nothing_false_is_said_of_a_program_that_moves_its_pointers_at_full_speed(
    tmp_path: Path, initialises: int
) -> None:
    report, judged = _judged(tmp_path / "truth", 2, initialises, budget_s=180.0)
    assert judged.false == Counter()
    assert judged.hidden == Counter()
    # A block that its program never initialised may hold old links of free lists: those it points at are uncertain.
    assert judged.n_found >= (0.999 if initialises else 0.99) * judged.n_lost
    assert report.completeness.n_scans >= 4


@pytest.mark.parametrize(("program", "env"), [("held_musl", {}), ("held", preload("jemalloc"))])
def test_other_allocators_are_as_exact(tmp_path: Path, program: str, env: dict[str, str]) -> None:
    path = tmp_path / "truth"
    with Target(program, path, 0, env=env) as target:
        before = read_held(path)
        report = _look(target.pid)
    judged = judge(report, before, path, offset=_MUSL_OFFSET if program == "held_musl" else 0)
    assert judged.false == Counter()
    assert judged.n_found >= 0.999 * judged.n_lost > 40_000
    assert set(judged.hidden) <= _GRADES


def test_numpy_gives_the_same_as_the_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "truth"
    assert helper.find_helper().name == "C", "the helper was not built: scripts/setup"
    with Target("held", path, 0) as target:
        with_helper = _look(target.pid, n_scans=1)
        monkeypatch.setattr(run, "find_helper", helper.NumpyHelper)
        with_numpy = _look(target.pid, n_scans=1)
    assert with_numpy.completeness.helper == "numpy"
    assert [each.starts for each in with_numpy.lost or ()] == [each.starts for each in with_helper.lost or ()]
    assert {name: counts for name, counts in _holders(with_numpy).items() if name.endswith("in held")} == {
        name: counts for name, counts in _holders(with_helper).items() if name.endswith("in held")
    }


@pytest.mark.parametrize("program", ["held_cxx", "held_cxx_stripped"])
def test_classes_of_cxx_are_counted_exactly_also_without_symbols(program: str) -> None:
    with Target(program) as target:
        truth = target.ask("truth")
        report = _look(target.pid)
    classes = {each.name: each for each in report.classes}
    assert {name: classes[name].n_objects for name in truth["classes"]} == truth["classes"]
    shared = next(each for name, each in classes.items() if "_Sp_counted_ptr_inplace<app::Session" in name)
    assert shared.n_objects == truth["sessions"]
    assert shared.retained_bytes is not None
    assert shared.retained_bytes > truth["sessions"] * 4096
    assert classes["app::Forgotten"].n_lost == truth["classes"]["app::Forgotten"]
    lost = report.grade("lost")
    assert lost is not None
    assert lost.n_blocks == truth["lost_blocks"]
    assert lost.groups[0].class_name == "app::Forgotten"
    blocks = _holders(report)
    assert blocks["thread holder"][0] >= truth["thread_blocks"]
    if program == "held_cxx":
        raw = next(each for each in report.holders if each.label.name == "g_raw in held_cxx")
        assert (raw.n_bytes, raw.exclusive_bytes) == (truth["raw_bytes"], truth["raw_bytes"])


def test_rust_loses_what_it_forgets_and_its_statics_hold_the_rest() -> None:
    with Target("held_rust") as target:
        truth = target.ask("truth")
        report = _look(target.pid)
    lost = report.grade("lost")
    assert lost is not None
    assert lost.n_blocks == truth["lost_blocks"]
    objects = {each.name: each.n_objects for each in report.classes}
    assert objects["held_rust::Mail"] == truth["mail"]
    assert objects["Rust trait object of 320 bytes"] == truth["print"]
    names = _holders(report)
    assert names["held_rust::JOBS in held_rust"][0] == 1 + 2 * 1009 + 1009
    assert names["held_rust::TABLE in held_rust"][0] == 1 + 2003


def test_limits_end_the_look_early_with_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Target("held", path, 0) as target:
        one = _look(target.pid, n_scans=1)
        some = _look(target.pid, max_read_bytes=int(3.75 * one.completeness.read_bytes))
        little = _look(target.pid, max_read_bytes=1 << 20)
        short = _look(target.pid, budget_s=0.01)
    assert (some.completeness.n_scans, some.completeness.wanted_scans) == (2, 4)
    lost = some.grade("lost")
    assert lost is not None
    assert lost.certainty == "likely"
    assert lost.why.startswith("only 2 scans")
    assert little.lost is None
    assert short.lost is None
    assert "--max-read" in little.why_not_lost
    assert little.holders != []


def test_a_damaged_heap_ends_and_says_what_was_not_walked(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    rng = random.Random(7)
    with Target("held", path, 0) as target:
        with open(f"/proc/{target.pid}/maps", encoding="ascii") as file:
            heap = next(line for line in file if "[heap]" in line)
        start, end = (int(word, 16) for word in heap.split()[0].split("-"))
        with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:
            for _ in range(1000):
                memory.seek(rng.randrange(start, end - 8) & ~7)
                memory.write(rng.randbytes(8))
        report = _look(target.pid, n_scans=2, budget_s=20.0)
        assert report.completeness.unwalked_bytes > 0
        assert report.completeness.n_blocks > 10_000
        with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:
            for page in range(start, end, 4096):
                memory.seek(page)
                memory.write(rng.randbytes(4096))
        began = time.monotonic()
        with contextlib.suppress(HeapError):
            _look(target.pid, n_scans=2, budget_s=20.0)
        assert time.monotonic() - began < 40
        target.process.kill()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nativeleak", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_page_is_one_screen_and_triage_carries_the_rows(tmp_path: Path) -> None:
    with Target("held_cxx") as target:
        page = _run("holders", "-p", str(target.pid), "--wait", "0.1s")
        triage = _run("triage", "-p", str(target.pid), "--holders", "--format", "json")
        alone = _run("holders", "-p", str(target.pid), "--scans", "1", "--format", "json")
    assert page.returncode == 0
    assert page.stderr == ""
    lines = page.stdout.splitlines()
    assert len(lines) <= 40
    assert any(line.startswith("LOST") and "724 blocks" in line for line in lines)
    assert any("app::Forgotten" in line for line in lines)
    rows = json.loads(triage.stdout)["holders"]
    assert {row["kind"] for row in rows} >= {"global", "thread-stack", "native-class", "unreachable"}
    lost = next(row for row in rows if row["kind"] == "unreachable")
    assert (lost["blocks"], lost["reachable"], lost["certainty"]) == (724, False, "proven")
    report = json.loads(alone.stdout)
    assert report["schema"] == "nativeleak.holders/1"
    assert report["completeness"]["scans"] == 1
    assert report["lost"][0]["certainty"] == "likely"


def test_a_process_that_is_not_there_has_status_4_and_none_at_all_status_2() -> None:
    assert _run("holders", "-p", "4194304").returncode == 4
    assert _run("holders").returncode == 2
    assert _run("triage", "--holders", "--input", os.devnull).returncode == 2
