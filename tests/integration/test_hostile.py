"""A target that calls itself, its threads, files and functions whatever it can, to steer who reads the report."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stacks import read_snapshot_count
from support import Target, Trace, eventually, nativeleak, require_program, target_path
from support.page import figures
from tools.check_report import check

EVIL = "a;b\n\x1b[2J<img src=x>\r\u202e$(id)"
"""In the names of folders, files and functions."""

MAX_PATH_BYTES = 4000
BLOCK_BYTES = 1009
N_THREADS = 14
"""As in targets/hostile.c; thread i keeps i blocks."""

_UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A folder with a path of 4 KiB, its names as bad as can be."""
    path = tmp_path_factory.mktemp("hostile")
    while len(os.fsencode(path)) < MAX_PATH_BYTES - 200:
        name = EVIL.replace("/", "") + "x" * 150
        path /= name[: MAX_PATH_BYTES - 200 - len(os.fsencode(path))] or "x"
    path.mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def library(room, tmp_path_factory) -> Path:
    """The library of ``hostile``, in that folder, with a function of that name; its debug file is a pipe."""
    require_program("objcopy")
    work = tmp_path_factory.mktemp("library")  # objcopy takes no path of that length
    (work / "pipe.debug").write_bytes(b"any")
    names = ["--redefine-sym", f"harmless={EVIL}"]
    subprocess.run(
        ["objcopy", *names, "--add-gnu-debuglink=pipe.debug", str(target_path("libhostile.so")), "lib.so"],
        check=True,
        cwd=work,
    )
    place = room / f"{EVIL}.so".replace("/", "")
    shutil.copyfile(work / "lib.so", place)
    os.mkfifo(room / "pipe.debug", 0o644)
    return place


@contextmanager
def traced(library: Path, tmp_path: Path) -> Iterator[tuple[Target, Trace]]:
    with ExitStack() as stack:
        program = library.with_name("x;\n\x1b[7m")
        if not program.exists():
            shutil.copy(target_path("hostile"), program)
        target = stack.enter_context(Target("hostile", library, command=[program, str(library)]))
        trace = stack.enter_context(Trace(target, options=["--interval", "0.2s", "-v"], output=tmp_path / "trace.nlk"))
        yield target, trace


def test_names_of_all_kinds_break_no_output(library, tmp_path):
    with traced(library, tmp_path) as (target, trace):
        tids = target.go()["tids"]
        report = trace.stop()
        assert check(report) == []
        amounts = {row["tid"]: row["outstanding_bytes"] for row in report["threads"] if row["tid"] in tids}
        assert amounts == {tid: n * BLOCK_BYTES for n, tid in enumerate(tids, 1)}
        functions = {frame["function"] for site in report["sites"] for frame in site["frames"]}
        assert any("img src" in name for name in functions), functions
        assert not [name for name in functions if _UNSAFE.search(name)]
        text, folded, page = (report_of(trace, name, tmp_path) for name in ("text", "folded", "html"))
    for output in (trace.stderr, text, folded, page):
        assert not _UNSAFE.search(output)
    assert all(line.startswith(("nativeleak: ", "  ")) for line in trace.stderr.splitlines())
    assert "img src" in str(figures(page)[0]["strings"])
    assert "<img" not in page
    stacks = [line for line in folded.splitlines() if "img src" in line]
    assert len(stacks) == N_THREADS
    for line in stacks:
        assert re.fullmatch(r"[^;]+(;[^;]+)+ [0-9]+", line), line
    assert sum(int(line.rpartition(" ")[2]) for line in stacks) == BLOCK_BYTES * N_THREADS * (N_THREADS + 1) // 2


def report_of(trace: Trace, format_name: str, tmp_path: Path) -> str:
    """A report in a file, which only we can read."""
    path = tmp_path / f"report.{format_name}"
    done = nativeleak("report", trace.recording, "--format", format_name, "-o", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.stat().st_mode & 0o777 == 0o600
    assert trace.recording.stat().st_mode & 0o777 == 0o600
    return path.read_text()


def test_errors_about_a_hostile_target_are_lines_of_text(library, tmp_path):
    """A static program without symbols, and of a name that would clear the screen."""
    program = tmp_path / "\x1b[2Jx"
    shutil.copy(target_path("static_stripped"), program)
    with Target("static_stripped", command=[program]) as target:
        done = nativeleak("trace", "-p", target.pid, "-o", tmp_path / "trace.nlk")
    assert done.returncode == 3
    assert done.stderr.startswith(f"nativeleak: trace of PID {target.pid} (")
    assert not _UNSAFE.search(done.stderr)


@pytest.mark.parametrize("kind", ["pipe", "stranger's", "endless"])
def test_perf_map_that_is_not_the_targets_own_file_is_left_alone(kind, library, tmp_path):
    with ExitStack() as stack:
        target = stack.enter_context(Target("hostile", library, command=[target_path("hostile"), str(library)]))
        path = Path(f"/tmp/perf-{target.pid}.map")
        stack.callback(subprocess.run, ["rm", "-rf", str(path)], check=True)
        text = b"".join(b"%x %x trusted\n" % (start, 1 << 28) for start in range(1 << 20, 1 << 24, 1 << 20))
        if kind == "pipe":
            os.mkfifo(path, 0o666)
        else:
            path.write_bytes(text)
            if kind == "endless":
                os.truncate(path, 1 << 42)
            else:
                os.chown(path, 65534, 65534)
        trace = stack.enter_context(Trace(target, options=["--interval", "0.2s"], output=tmp_path / "trace.nlk"))
        target.go()
        report = trace.stop(timeout_s=30)
    assert sum(row["outstanding_bytes"] for row in report["sites"] if "img src" in json.dumps(row)) > 0
    assert "trusted" not in json.dumps(report)
    assert report["overhead"]["tracer_max_rss_bytes"] < 200 << 20


@pytest.mark.parametrize("kind", ["recording", "report"])
def test_output_in_a_sticky_folder_of_all_replaces_no_strangers_link(kind, tmp_path):
    """As in /tmp: anybody may have put a link where our file goes."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    output = folder / "output"
    output.symlink_to(victim)
    os.lchown(output, 65534, 65534)
    with Target("exits") as target:
        sound = tmp_path / "sound.nlk"
        given = ("-p", target.pid, "--duration", "0.2s", "--format", "none")
        if kind == "recording":
            done = nativeleak("trace", *given, "--force", "-o", output)
        else:
            assert nativeleak("trace", *given, "-o", sound).returncode == 0
            done = nativeleak("report", sound, "-o", output)
    assert done.returncode == 1
    assert "it is a symbolic link" in done.stderr.splitlines()[0]
    assert victim.read_text() == "precious"
    assert output.is_symlink()


def test_journal_of_a_stranger_beside_the_recording_is_not_rolled_in(tmp_path):
    """SQLite takes a file of that name for its own."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    output = folder / "trace.nlk"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    output.with_name("trace.nlk-journal").symlink_to(victim)
    with Target("exits") as target:
        done = nativeleak("trace", "-p", target.pid, "--duration", "0.3s", "--format", "json", "-o", output)
    assert done.returncode == 0, done.stderr
    assert check(json.loads(done.stdout)) == []
    assert victim.read_text() == "precious"


def test_journals_beside_the_recording_cannot_be_made_by_others(tmp_path):
    """In a folder of all: both names are taken while we write, and a stranger's is not read afterwards."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    output = folder / "trace.nlk"
    beside = [folder / f"trace.nlk{suffix}" for suffix in ("-journal", "-wal")]
    with Target("exits") as target, Trace(target, options=["--interval", "0.1s"], output=output) as trace:
        eventually(lambda: read_snapshot_count(output) >= 2, "two snapshots")
        assert {(path.lstat().st_uid, path.lstat().st_mode & 0o777) for path in beside} == {(0, 0o600)}
        assert check(trace.stop()) == []
    assert list(folder.iterdir()) == [output]
    beside[1].write_bytes(b"any")
    os.chown(beside[1], 65534, 65534)
    done = nativeleak("report", output)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"nativeleak: reading {output} failed: trace.nlk-wal beside it belongs to another user"
    )


def test_live_view_of_a_hostile_target_writes_only_its_own_control_sequences(library, tmp_path):
    """On a terminal: what the target wrote into its names would clear the screen or set the title."""
    with Target("hostile", library, command=[target_path("hostile"), str(library)]) as target:
        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--duration", "3s"]
        command += ["--format", "none", "-o", str(tmp_path / "trace.nlk")]
        with subprocess.Popen(command, stderr=follower, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as tracer:
            os.close(follower)
            shown = b""
            worked = False
            try:
                while chunk := os.read(leader, 1 << 16):
                    shown += chunk
                    if not worked and b"tracing" in shown:
                        target.go()
                        worked = True
            except OSError:
                pass  # the tracer has closed its end
            os.close(leader)
        assert tracer.returncode == 0
    assert b"img src" in shown
    assert b"\x1b[2J" not in shown
    assert b"\x1b]0;" not in shown
    assert b"rtl" in shown
    assert "\u202e".encode() not in shown


def test_library_that_is_a_huge_sparse_file_costs_nothing(tmp_path):
    """Mapped executable: 1 TiB, with the header of an object and nothing else."""
    path = tmp_path / "huge.so"
    path.write_bytes(target_path("libhostile.so").read_bytes())
    os.truncate(path, 1 << 40)
    with (
        Target("hostile", path, command=[target_path("hostile"), str(path)]) as target,
        Trace(target, options=["--interval", "0.2s"], output=tmp_path / "trace.nlk") as trace,
    ):
        target.go()
        eventually(lambda: trace.recording.stat().st_size > 0, "a recording")
        report = trace.stop(timeout_s=60)
    assert check(report) == []
    assert report["overhead"]["tracer_max_rss_bytes"] < 200 << 20
    assert report["overhead"]["tracer_cpu_s"] < 30
