"""The engine that compiles the BPF programs here, by BCC: the same ledger, where no prebuilt object fits."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from nativeleak import arch
from nativeleak.engines.bpf.kernel.loaders.bcc import compile_with
from nativeleak.engines.bpf.kernel.loaders.bcc_compiler import write_stubs
from nativeleak.engines.bpf.kernel.loaders.headers import Headers, find_headers, stubs
from support import (
    WITHOUT_BTF,
    Target,
    Trace,
    eventually,
    hiding,
    leaker,
    mismatches,
    require,
    require_program,
    seen_as,
    strangers,
    sums,
    totals,
)
from tools.check_report import check

STRDUP = {"heap_strdup": "strdup"}
COMPILES_S = 120.0


@pytest.fixture(autouse=True)
def _bcc() -> None:
    try:
        ctypes.CDLL("libbcc.so.0")
    except OSError:
        require(False, "not installed: python3-bpfcc")


def test_battery_on_bcc_is_exact_and_says_what_is_missing():
    options = ["--engine", "bcc", "-v"]
    with Target("battery") as target, Trace(target, options=options, timeout_s=COMPILES_S) as trace:
        truth = seen_as(target.go(), STRDUP)
        report = trace.stop()
        everything = trace.all_sites()
    assert f"BCC has compiled the programs with {find_headers().said}\n" in trace.stderr
    assert report["tool"]["backend"] == "bpf-bcc"
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert report["completeness"]["unmatched_frees"] == truth["unmatched_frees"] + truth["unmatched_reallocs"]
    assert lost(report) == {}
    assert trace.stderr.count("not available: Java frames, and native stacks of code without frame pointers") == 1


def test_headers_that_do_not_compile_give_way_to_stubs_with_the_reason(tmp_path):
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/kconfig.h").write_text("#error not with these\n")
    broken = Headers(str(tmp_path), "", "headers made up")
    made = compile_with(broken)
    assert set(made.programs) == set(compile_with(stubs("of choice")).programs)
    assert not made.headers.is_real
    assert made.headers.said.startswith("stubs of kernel headers: with headers made up BCC does not compile the BPF")
    assert "not with these" in made.headers.said


def test_headers_in_an_archive_are_unpacked_and_must_be_the_running_kernels(tmp_path):
    room = tmp_path / "headers"
    write_stubs(room, arch.here())
    (room / "include/generated").mkdir()

    def compiled_for(release):
        (room / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{release}"\n')
        archive = tmp_path / f"{release}.tar.xz"
        with tarfile.open(archive, "w:xz") as file:
            file.add(room, ".")
        return compile_with(Headers(str(archive), "", "an archive")).headers

    assert compiled_for(platform.release()).said == "an archive"
    assert compiled_for("1.0.0").said.endswith("1.0.0.tar.xz is for 1.0.0")


def test_battery_on_bcc_by_perf_events_without_the_kernels_types_has_exact_totals():
    options = ["--engine", "bcc", "--attach", "perf", "-v"]
    with (
        Target("battery") as target,
        Trace(target, options=options, timeout_s=COMPILES_S, within=WITHOUT_BTF) as trace,
    ):
        truth = seen_as(target.go(), STRDUP)
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth, ["heap"]) == []
    assert mismatches(everything, truth, ["heap"]) == []
    assert totals(report, "heap") == sums(truth, "heap")
    for key in ("outstanding_bytes", "outstanding_count"):
        assert report["totals"]["map"][key] == sums(truth, "map")[key]
        for tid in {site["tid"] for site in truth["sites"]}:
            own = sum(site.get(key, 0) for site in truth["sites"] if site["tid"] == tid and site["kind"] == "map")
            rows = [row for row in report["sites"] if row["thread"]["tid"] == tid and row["kind"] == "map"]
            assert sum(row[key] for row in rows) == own
    assert lost(report) == {}
    assert "attached by perf events" in trace.stderr


@pytest.mark.jvm
def test_java_names_on_bcc_come_from_a_perf_map():
    require_program("jcmd")
    # Compiled once, and where it can be seen: a name in the map is of no use once the code is somewhere else.
    once = ["-XX:TieredStopAtLevel=1", "-XX:CompileCommand=quiet", "-XX:CompileCommand=dontinline,*OrderCache.step"]
    with leaker("order-cache=211", waits=False, options=["-XX:+PreserveFramePointer", *once]) as target:
        names = Path(f"/tmp/perf-{target.pid}.map")

        def has_step():
            subprocess.run(["jcmd", str(target.pid), "Compiler.perfmap"], capture_output=True, check=False)
            return names.exists() and "OrderCache.step" in names.read_text()

        try:
            eventually(has_step, "compiled code of the order cache")
            with Trace(target, options=["--engine", "bcc"], timeout_s=COMPILES_S) as trace:
                (held,) = [site for site in target.ask("truth")["sites"] if site["thread"] == "order-cache"]
                target.send("resume")
                target.ask(f"until order-cache {held['allocated_count'] + 101}")
                report = trace.stop()
        finally:
            names.unlink(missing_ok=True)
    functions = [
        frame["function"]
        for site in report["sites"]
        for frame in site["frames"]
        if site["thread"]["name"] == "order-cache" and frame["kind"] == "java-compiled"
    ]
    assert "void Leaker$OrderCache.step()" in functions


def test_without_the_kernels_types_libbpf_is_refused_with_what_to_do():
    forced = ["--engine", "libbpf"]
    with Target("battery") as target, Trace(target, options=forced, attaches=False, within=WITHOUT_BTF) as trace:
        assert trace.wait_end() == 3
        assert not trace.recording.exists()
    first, remedy = trace.stderr.splitlines()
    assert first.startswith("nativeleak: loading the BPF programs failed: this kernel does not describe its types")
    assert "--engine bcc" in remedy


def test_without_the_kernels_types_auto_takes_bcc_and_says_so():
    with Target("maps") as target, Trace(target, within=WITHOUT_BTF, timeout_s=COMPILES_S) as trace:
        truth = target.go()
        report = trace.stop()
    assert report["tool"]["backend"] == "bpf-bcc"
    held = sum(site["outstanding_bytes"] for site in truth["sites"])
    assert report["totals"]["map"]["outstanding_bytes"] == held
    assert trace.stderr.startswith(
        "nativeleak: falling back to bcc (loading the BPF programs failed: this kernel does not "
    )


def test_process_killed_by_a_signal_is_told_so_by_bcc():
    with Target("battery") as target, Trace(target, options=["--engine", "bcc"], timeout_s=COMPILES_S) as trace:
        target.process.kill()
        report = trace.wait()
    assert report["target"]["end"] == "killed"


def test_without_bcc_the_engine_is_refused_with_what_to_install(tmp_path):
    maps = Path("/proc/self/maps").read_text()  # the fixture has loaded it
    library = next(line.split()[-1] for line in maps.splitlines() if "libbcc.so" in line)
    with Target("battery") as target:
        command = [*hiding(library), sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid)]
        command += ["--engine", "bcc", "-o", str(tmp_path / "trace.nlk"), "--duration", "1s"]
        missing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert missing.returncode == 3
    first, remedy = missing.stderr.splitlines()
    assert first == "nativeleak: BCC was not found on this machine: no libbcc.so.0"
    assert "python3-bpfcc" in remedy
    assert not (tmp_path / "trace.nlk").exists()


def lost(report):
    return {name: n for name, n in report["completeness"].items() if n and name.startswith("lost")}
