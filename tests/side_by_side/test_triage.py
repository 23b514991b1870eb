"""Triage of real processes: the lines add up, and the parts are what the process itself says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.machine import preload, require_program
from support.target import Target, java_launcher, leaker

_JAVA_LINES = {"java-heap", "metaspace", "code-cache", "thread-stacks", "malloc-live", "libraries"}


def _triage(pid: int, *options: str) -> str:
    command = [sys.executable, "-m", "nativeleak", "triage", "-p", str(pid), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _report(pid: int) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(_triage(pid, "--format", "json"))
    return report


def _resident(report: dict[str, Any]) -> dict[str, int]:
    return {line["id"]: line["resident_bytes"] for line in report["lines"]}


def _rollup(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))


def test_retention_is_the_first_answer_and_the_lines_add_up_to_rss() -> None:
    with Target("heap_states", "gaps", 40009) as target:
        report, text = _report(target.pid), _triage(target.pid)
        rss, truth = _rollup(target.pid), target.ask("truth")
    lines = _resident(report)
    assert report["schema"] == "nativeleak.triage/1"
    assert sum(lines.values()) == report["rss_bytes"] == rss
    assert report["unexplained_bytes"] < 0.03 * rss
    allocator = report["allocators"][0]
    assert allocator["in_use_bytes"] + allocator["cached"]["bytes"] == truth["uordblks"] + truth["hblkhd"]
    assert allocator["retained_bytes"] - allocator["cached"]["bytes"] == truth["fordblks"]
    assert next(verdict["id"] for verdict in report["verdicts"]) == "allocator-retention"
    assert text.count("\n") <= 30
    assert "retention, not a leak" in text.splitlines()[2]


def test_large_blocks_of_a_program_without_a_jvm_are_named_but_not_for_java() -> None:
    with Target("heap_states", "big", 7) as target:
        text = _triage(target.pid)
    assert re.search(r"7 blocks of 16,781,312 bytes = 112\.0 MiB: buffer of 16 MiB$", text, re.MULTILINE)
    assert f"nativeleak trace -p {target.pid}" in text


def test_stacks_of_threads_are_found_by_thread() -> None:
    with Target("heap_states", "live", 101, 8) as target:
        report = _report(target.pid)
    stacks = next(line for line in report["lines"] if line["id"] == "thread-stacks")
    assert stacks["virtual_bytes"] >= 8 * (8 << 20)
    assert report["target"]["n_threads"] == 9
    assert [arena["threads"] for arena in report["allocators"][0]["arenas"]] == [1] * 9


@pytest.mark.jvm
@pytest.mark.parametrize(
    ("release", "collector"), [("debian", "G1"), ("11", "Serial"), ("21", "Parallel"), ("25", "Z"), ("17", "Z")]
)
def test_a_jvm_closes_and_nearly_nothing_is_unexplained(release: str, collector: str) -> None:
    options = ["-XX:+UnlockExperimentalVMOptions", f"-XX:+Use{collector}GC"]
    with leaker(java=java_launcher(release), options=options) as target:
        report = _report(target.pid)
    lines = _resident(report)
    assert sum(lines.values()) == report["rss_bytes"]
    assert report["rss_bytes"] == pytest.approx(report["status_rss_bytes"][1], rel=0.01)
    assert report["unexplained_bytes"] < 0.03 * report["rss_bytes"]
    assert lines.keys() >= _JAVA_LINES
    assert report["target"]["jvm"]["collector"] == collector
    assert report["target"]["jvm"]["flags"]["MaxHeapSize"] == 128 << 20
    assert report["allocators"][0]["walked_pct"] > 95


@pytest.mark.jvm
def test_heap_and_metaspace_are_those_that_the_jvm_says() -> None:
    require_program("jcmd")
    with leaker(options=["-XX:+UseSerialGC", "-XX:NativeMemoryTracking=summary"]) as target:
        jcmd = ["jcmd", str(target.pid)]
        subprocess.run([*jcmd, "GC.run"], check=True, capture_output=True)
        said = subprocess.run([*jcmd, "GC.heap_info"], check=True, capture_output=True, text=True).stdout
        tracked = subprocess.run([*jcmd, "VM.native_memory"], check=True, capture_output=True, text=True).stdout
        java = _report(target.pid)["java"]
    used_kib = sum(int(n) for n in re.findall(r"generation +total \d+K, used (\d+)K", said))
    assert java["heap_used_bytes"] == pytest.approx(used_kib << 10, rel=0.02, abs=1 << 20)
    metaspace = re.search(r"\( +Metadata: +\)\s+\( +reserved=\d+KB, committed=(\d+)KB\)", tracked)
    classes = re.search(r"\( +Class space:\)\s+\( +reserved=\d+KB, committed=(\d+)KB\)", tracked)
    assert metaspace is not None
    assert classes is not None
    assert java["metaspace_committed_bytes"] == int(metaspace[1]) << 10
    assert java["class_space_committed_bytes"] == int(classes[1]) << 10


def test_a_process_that_is_not_there_is_said_with_status_4() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nativeleak", "triage", "-p", "4194304"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert "no such process" in done.stderr


def test_a_program_of_musl_and_one_of_jemalloc_close_too() -> None:
    reports = {}
    for program, env in (("heap_states_musl", {}), ("heap_states", preload("jemalloc"))):
        with Target(program, "gaps", 20011, env=env) as target:
            report = _report(target.pid)
        assert sum(_resident(report).values()) == report["rss_bytes"]
        assert report["unexplained_bytes"] < 0.05 * report["rss_bytes"]
        reports[report["allocators"][0]["kind"]] = report["allocators"][0]["in_use_bytes"]
    assert reports["musl"] == pytest.approx(5_500_000, rel=0.2)
    assert reports["jemalloc"] == pytest.approx(7_400_000, rel=0.2)


def test_maps_lists_the_largest_first_and_adds_up() -> None:
    with Target("heap_states", "live", 20011) as target:
        command = [
            sys.executable,
            "-m",
            "nativeleak",
            "maps",
            "-p",
            str(target.pid),
            "--sort",
            "rss",
            "--format",
            "json",
        ]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    resident = [each["resident_bytes"] for each in report["ranges"]]
    assert sum(resident) == report["rss_bytes"]
    assert resident == sorted(resident, reverse=True)
    assert report["ranges"][0]["line"] == "malloc-live"


def test_maps_of_two_moments_differ_by_what_the_process_mapped(tmp_path: Path) -> None:
    maps = [sys.executable, "-m", "nativeleak", "maps"]
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    with Target("grows") as target:
        of_target = [*maps, "-p", str(target.pid)]
        subprocess.run([*of_target, "--format", "json", "-o", before], check=True)
        target.ask("map 16")
        diff = [*of_target, "--diff", before]
        report = json.loads(subprocess.run([*diff, "--format", "json"], check=True, capture_output=True).stdout)
        text = subprocess.run(diff, check=True, capture_output=True, text=True).stdout
        subprocess.run([*of_target, "--format", "json", "-o", after], check=True)
        again = [*of_target, "--again", "0.2s", "--format", "json"]
        still = json.loads(subprocess.run(again, check=True, capture_output=True).stdout)
    saved = [*maps, "--diff", before, "--diff", after, "--format", "json"]
    from_files = json.loads(subprocess.run(saved, check=True, capture_output=True).stdout)
    assert from_files["ranges"] == report["ranges"]
    assert report["same_process"] is True
    growth = [each["resident_bytes"]["after"] - each["resident_bytes"]["before"] for each in report["ranges"]]
    assert sum(growth) == report["rss_bytes"]["after"] - report["rss_bytes"]["before"]
    assert growth[0] == pytest.approx(16 << 20, abs=64 << 10)
    assert "+16" in text.splitlines()[3]
    assert still["ranges"] == []


def test_python_objects_are_those_that_python_counts() -> None:
    script = (
        "import sys; kept = [str(n) * 3 for n in range(200000)] + [[n] for n in range(50000)];"
        " sys._debugmallocstats(); sys.stderr.flush(); print('READY', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        assert target.stderr is not None
        said = ""
        for line in target.stderr:
            said = line if "bytes in allocated blocks" in line else said
            if line.startswith("Total") and said:
                break
        assert target.stdout.readline() == "READY\n"
        report = _report(target.pid)
        target.stdin.close()
    counted = int(said.split("=")[1].replace(",", ""))
    python = next(line for line in report["lines"] if line["id"] == "python")
    assert python["used_bytes"] == pytest.approx(counted, rel=0.01)
    assert report["unexplained_bytes"] < 0.03 * report["rss_bytes"]
    assert sum(_resident(report).values()) == report["rss_bytes"]


def test_a_master_names_its_worker_that_holds_more() -> None:
    worker = "kept = bytearray(60 << 20); print(flush=True); input()"
    master = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    command = [sys.executable, "-c", master, worker]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        verdict = _report(process.pid)["verdicts"][0]
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii"))
        process.communicate("\n")
    assert (verdict["id"], verdict["next"]) == ("children", [f"nativeleak triage -p {pid}"])
    assert re.match(rf"{pid} \([^)]+\) [67]\d\.\d MiB;", verdict["evidence"][0])
