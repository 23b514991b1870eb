"""What cannot be done is said in one line with what to do about it, with the promised status, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stacks import read_snapshot_count
from support import (
    Target,
    Trace,
    counted_probes,
    eventually,
    mismatches,
    nativeleak,
    require,
    require_program,
    seen_as,
    strangers,
    target_path,
)
from tools.check_report import check

STRDUP = {"heap_strdup": "strdup"}
_PF_KTHREAD = 0x0020_0000  # include/linux/sched.h
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def refused(done, status, first, remedy=""):
    """Hold a failure against the contract: status, one line that says what failed, then what to do, nothing else."""
    lines = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(f"nativeleak: {first}", lines[0]), lines[0]
    assert re.search(remedy, " ".join(lines[1:])), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def recording(tmp_path):
    return tmp_path / "trace.nlk"


@pytest.fixture(scope="module")
def target():
    with Target("exits") as target:
        yield target


# ---- targets ----


def test_target_that_does_not_exist_is_refused(recording):
    ended = subprocess.Popen(["true"])
    ended.wait()
    done = nativeleak("trace", "-p", ended.pid, "-o", recording)
    refused(done, 4, f"trace of PID {ended.pid} failed: no such process", "ps -e")
    assert not recording.exists()


def test_target_that_is_a_zombie_is_refused(recording):
    with subprocess.Popen(["true"]) as zombie:
        eventually(lambda: ") Z " in Path(f"/proc/{zombie.pid}/stat").read_text(), "a zombie")
        done = nativeleak("trace", "-p", zombie.pid, "-o", recording)
    refused(done, 4, rf"trace of PID {zombie.pid} failed: it has exited already \(zombie\)", str(os.getpid()))


def test_target_that_is_a_kernel_thread_is_refused(recording):
    pid = next((pid for pid in read_ids("/proc") if is_kernel_thread(pid)), None)
    require(pid, "no kernel thread is to be seen")
    done = nativeleak("trace", "-p", pid, "-o", recording)
    refused(done, 3, rf"trace of PID {pid} failed: it is a kernel thread \(.+\)", "memory of its own")


def read_ids(folder):
    """The numbers among the names in a folder of /proc."""
    return sorted(int(path.name) for path in Path(folder).iterdir() if path.name.isdigit())


def is_kernel_thread(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return bool(int(stat.rpartition(")")[2].split()[6]) & _PF_KTHREAD)


def test_target_that_is_the_tracer_itself_is_refused(recording):
    script = 'exec "$0" -m nativeleak trace -p $$ -o "$1"'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, recording], capture_output=True, text=True, check=False, timeout=30
    )
    refused(done, 2, r"trace of PID \d+ failed: that is nativeleak itself", "another process")


def test_target_given_by_a_thread_id_is_refused_with_its_process(recording):
    with Target("churn", 1009, 1) as target:
        tids = read_ids(f"/proc/{target.pid}/task")
        tid = next(tid for tid in tids if tid != target.pid)
        done = nativeleak("trace", "-p", tid, "-o", recording)
    refused(
        done, 2, rf"trace of PID {tid} failed: it is a thread of process {target.pid} \(churn\), not a process",
        f"-p {target.pid}",
    )  # fmt: skip


def test_target_of_32_bits_is_refused(recording, tmp_path):
    program = tmp_path / "pauses"
    program.write_bytes(elf32())
    program.chmod(0o755)
    try:
        process = subprocess.Popen([program])
    except OSError as error:
        require(False, f"this kernel runs no 32-bit programs: {error.strerror}")
    with process:
        try:
            eventually(lambda: Path(f"/proc/{process.pid}/exe").readlink() == program, "the 32-bit program")
            done = nativeleak("trace", "-p", process.pid, "-o", recording, "--engine", "libbpf")
        finally:
            process.kill()
    refused(done, 3, f"trace of PID {process.pid} failed: it is a 32-bit process", "64-bit")


def elf32():
    """A static i386 executable that waits for a signal: ``pause()`` in a loop.

    Source: Elf32_Ehdr and Elf32_Phdr in elf.h; 29 is __NR_pause in asm/unistd_32.h.
    """
    base, header_bytes = 0x08048000, 52 + 32
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"  # mov $29, %eax; int $0x80; jmp to the start
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    n_bytes = header_bytes + len(code)
    header = struct.pack("<16sHHIIIIIHHHHHH", ident, 2, 3, 1, base + header_bytes, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, n_bytes, n_bytes, 5, 4096)
    return header + segment + code


def test_user_without_rights_is_told_which_capabilities_would_do(target, tmp_path):
    require_program("setpriv")
    tmp_path.chmod(0o777)
    readable = subprocess.run([*NOBODY, sys.executable, "-c", "import nativeleak"], capture_output=True, check=False)
    require(readable.returncode == 0, "the checkout cannot be read by other users")
    of_another_user = as_nobody("-p", target.pid, "-o", tmp_path / "a.nlk")
    refused(
        of_another_user, 3, f"trace of PID {target.pid} failed: no permission to read its mappings",
        "CAP_SYS_PTRACE.*CAP_BPF.*CAP_PERFMON",
    )  # fmt: skip
    with subprocess.Popen([*NOBODY, "sleep", "60"]) as own:
        eventually(lambda: Path(f"/proc/{own.pid}/comm").read_text() == "sleep\n", "setpriv has become sleep")
        done = as_nobody("-p", own.pid, "-o", tmp_path / "b.nlk", "--engine", "libbpf")
        own.kill()
    refused(done, 3, "loading the BPF programs failed: Operation not permitted", "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE")
    assert list(tmp_path.iterdir()) == []


def as_nobody(*arguments):
    return subprocess.run(
        [*NOBODY, sys.executable, "-m", "nativeleak", "trace", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_target_with_another_tracers_counted_probe_on_malloc_is_refused(tmp_path, recording):
    program = tmp_path / "copy"
    program.write_bytes(target_path("static").read_bytes())
    program.chmod(0o755)
    with Target("static", command=[program]) as target, counted_probes(program, ["malloc", "free"], target.pid):
        done = nativeleak("trace", "-p", target.pid, "-o", recording)
    refused(done, 3, f"probing the allocator functions of .*{program.name} failed: Invalid argument", "ref_ctr_offset")
    assert not recording.exists()


# ---- the recording ----


@pytest.mark.parametrize("kind", ["a file", "a symbolic link", "a folder", "in no folder", "in a read-only folder"])
def test_recording_that_cannot_be_made_is_refused_and_what_is_there_stays(kind, target, tmp_path, recording):
    remedy = "-o"
    if kind == "a file":
        recording.write_text("mine")
        why = "the file exists"
    elif kind == "a symbolic link":
        recording.symlink_to(tmp_path / "victim")
        why = "it is a symbolic link"
    elif kind == "a folder":
        recording.mkdir()
        why = "it is not a regular file"
    elif kind == "in no folder":
        recording = tmp_path / "none" / "trace.nlk"
        why = "No such file or directory"
    else:
        recording = Path("/sys/kernel/trace.nlk")
        why = "(Permission denied|Operation not permitted|Read-only file system)"
    done = nativeleak("trace", "-p", target.pid, "-o", recording, "--duration", "1s")
    refused(done, 1, f"recording to {recording} failed: {why}", remedy)
    assert not (tmp_path / "victim").exists()
    assert kind != "a file" or recording.read_text() == "mine"


def test_recording_that_exists_is_replaced_with_force(target, recording):
    recording.write_text("mine")
    done = nativeleak("trace", "-p", target.pid, "-o", recording, "--force", "--duration", "0.2s", "--format", "none")
    assert (done.returncode, done.stdout) == (0, "")
    assert recording.read_bytes().startswith(b"SQLite format 3\0")
    assert recording.stat().st_mode & 0o777 == 0o600


@contextmanager
def small_disk(place, n_bytes):
    """A file system of a given size."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_disk_that_is_full_stops_neither_trace_nor_report_and_is_said(tmp_path):
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        recording = disk / "trace.nlk"
        with (
            Target("battery") as target,
            Trace(target, options=["--interval", "0.1s"], output=recording) as trace,
        ):
            eventually(lambda: read_snapshot_count(recording), "a snapshot on the disk")
            fill(disk / "ballast")
            truth = seen_as(target.go(), STRDUP)
            eventually(lambda: "disk is full" in trace.said(), "the full disk is noticed")
            report = trace.stop()
            left = nativeleak("report", recording, "--format", "json")
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []
    assert report["recording"]["end_reason"] == "interrupted"
    assert re.search(f"writing {recording} failed .* disk is full", report["recording"]["error"])
    assert f"nativeleak: recording to {recording} failed" in trace.stderr
    assert "tracing goes on in memory" in trace.stderr
    assert left.returncode == 0, left.stderr


def fill(ballast):
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass


# ---- usage ----


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--duration", "0"], "'--duration': a duration must be longer than zero: '0'"),
        (["--duration", "-5m"], "'--duration': not a duration: '-5m'"),
        (["--duration", "soon"], "'--duration': not a duration: 'soon'"),
        (["--duration", ""], "'--duration': not a duration: ''"),
        (["--duration", "1e3"], "'--duration': not a duration: '1e3'"),
        (["--duration", "500d"], "--duration of 500 days: at most one year"),
        (["--interval", "0.01s"], "--interval of 0.01 s is too short"),
        (["--min-size", "12q"], "'--min-size': not a size: '12q'"),
        (["--min-size", "-1"], "'--min-size': not a size: '-1'"),
        (["--min-size", "99999999999999999999"], "'--min-size': larger than any address space"),
        (["--min-size", "64K", "--max-size", "4K"], "--max-size 4096 is less than --min-size 65536"),
        (["--max-allocations", "10"], "'--max-allocations': 10 is not in the range"),
        (["--max-depth", "1"], "'--max-depth': 1 is not in the range"),
        (["--top", "0"], "'--top': 0 is not in the range"),
        (["--format", "yaml"], "'--format': 'yaml' is not one of"),
        (["--colour"], "No such option"),
        (["-p", "java"], "'java' is not a valid integer"),
        (["-p", "0"], "trace of PID 0 failed: not a process id"),
        (["-p", "-1"], "trace of PID -1 failed: not a process id"),
    ],
)
def test_usage_that_makes_no_sense_is_refused(arguments, what, target, recording, capsys):
    from nativeleak.cli.main import run

    assert run(["trace", "-p", str(target.pid), "-o", str(recording), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nativeleak: ")
    assert what in err.splitlines()[0]
    assert not recording.exists()


def test_usage_without_a_process_is_refused_with_what_is_missing():
    refused(nativeleak("trace"), 2, "Missing option '-p' / '--pid'.", "--help")
    refused(nativeleak("follow"), 2, "No such command 'follow'.", "--help")


# ---- reading recordings ----


@pytest.fixture(scope="module")
def sound(target, tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "sound.nlk"
    done = nativeleak("trace", "-p", target.pid, "-o", path, "--duration", "0.2s", "--format", "none")
    assert done.returncode == 0
    return path.read_bytes()


def test_recording_that_is_none_is_refused(recording):
    refused(nativeleak("report", recording), 1, f"reading {recording} failed: no such file", "nativeleak trace")
    recording.write_text("Nov 23 18:16:01 host kernel: Out of memory\n")
    refused(nativeleak("report", recording), 1, f"reading {recording} failed: not a nativeleak recording: .*")
    recording.write_text("")
    refused(nativeleak("report", recording), 1, f"reading {recording} failed: not a nativeleak recording: .*")
    recording.unlink()
    with closing(sqlite3.connect(recording)) as db:
        db.execute("CREATE TABLE sites (id)")
    refused(nativeleak("report", recording), 1, f"reading {recording} failed: .*it is a SQLite file of another program")


def test_recording_of_a_newer_version_is_refused_with_the_version(sound, recording):
    recording.write_bytes(sound)
    with closing(sqlite3.connect(recording)) as db:
        db.execute("PRAGMA user_version = 4711")
        db.execute("UPDATE trace SET value = '9.8.7' WHERE name = 'version'")
        db.commit()
    refused(
        nativeleak("report", recording), 1,
        f"reading {recording} failed: nativeleak 9.8.7 wrote it in format 4711, nativeleak .* reads up to format .*",
        "Install",
    )  # fmt: skip


def test_recording_that_is_damaged_is_refused(sound, recording):
    recording.write_bytes(sound[: len(sound) // 2])
    refused(nativeleak("report", recording), 1, f"reading {recording} failed: the recording is damaged: .*", "Copy it")


def test_error_shows_a_traceback_only_when_asked(recording):
    done = nativeleak("report", recording)
    assert "Traceback" not in done.stderr
    done = nativeleak("trace", "-v", "-p", 1 << 22, "-o", recording)
    assert done.returncode == 4
    assert "Traceback" in done.stderr


def test_reader_that_leaves_early_is_no_error(target, recording):
    nativeleak("trace", "-p", target.pid, "-o", recording, "--duration", "0.2s", "--format", "none")
    with subprocess.Popen(
        [sys.executable, "-m", "nativeleak", "report", recording], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as report:
        report.stdout.close()
        assert report.stderr.read() == b""
    assert report.returncode in (0, -signal.SIGPIPE)
