"""How a trace begins and ends, on both sides: whatever happens, a report or a readable recording, and no probe left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativeleak.process.exit_status import read_exit_status
from stacks import read_snapshot_count
from support import (
    Target,
    TargetError,
    Trace,
    bpf_objects,
    bpf_objects_alive,
    eventually,
    mismatches,
    nativeleak,
    require,
    require_program,
    seen_as,
    strangers,
    sums,
    target_path,
    totals,
)
from tools.check_report import check

NONE_ALIVE = {"prog": set(), "link": set()}
STRDUP = {"heap_strdup": "strdup"}
CGROUPS = Path("/sys/fs/cgroup/memory")
OOM_LIMIT_BYTES = 24 << 20


def await_no_probe(ids):
    """The kernel takes programs away a moment after their last user is gone."""
    assert ids["prog"]
    assert ids["link"]
    eventually(lambda: bpf_objects_alive(ids) == NONE_ALIVE, "programs and links are gone")


# ---- how the tracer ends ----


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_trace_in_a_report_and_leaves_no_probe(signum):
    with Target("exits") as target, Trace(target) as trace:
        ids = bpf_objects(trace.process.pid)
        truth = target.go()
        report = trace.stop(signum=signum)
        assert target.process.poll() is None
    await_no_probe(ids)
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert report["target"]["end"] == "running"
    assert report["recording"]["end_reason"] == "interrupted"


def test_duration_ends_the_trace_with_a_snapshot_each_interval():
    with Target("exits") as target, Trace(target, options=["--duration", "2s", "--interval", "0.25s"]) as trace:
        truth = target.go()
        report = trace.wait()
    assert mismatches(report, truth) == []
    assert report["recording"]["end_reason"] == "duration"
    assert 2.0 <= report["window"]["duration_s"] < 4.0
    # Seven within, one at the end; on a busy machine some fall together.
    assert 4 <= report["window"]["snapshots"] <= 9


def test_second_signal_leaves_at_once_and_the_recording_reports(tmp_path):
    recording = tmp_path / "second.nlk"
    with (
        Target("exits") as target,
        Trace(target, options=["--interval", "0.1s"], output=recording) as trace,
    ):
        ids = bpf_objects(trace.process.pid)
        truth = target.go()
        await_snapshots(recording)
        # At once, while the first is being obeyed: taking the probes away alone needs 50 ms. Two of a kind may be one.
        trace.process.send_signal(signal.SIGINT)
        trace.process.send_signal(signal.SIGTERM)
        assert trace.wait_end(10.0) == 128 + signal.SIGTERM
    await_no_probe(ids)
    assert trace.stdout == ""
    assert mismatches(read_report(recording), truth) == []


def await_snapshots(recording, n=2):
    """Wait until so many snapshots have been made from now on: the last of them shows all that has happened."""
    n += read_snapshot_count(recording)
    eventually(lambda: read_snapshot_count(recording) >= n, "snapshots")


def read_report(recording):
    done = nativeleak("report", recording, "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert check(report) == []
    return report


def test_tracer_killed_after_the_work_is_done_leaves_all_of_it_in_the_recording(tmp_path):
    recording = tmp_path / "killed.nlk"
    with (
        Target("battery") as target,
        Trace(target, options=["--interval", "0.1s"], output=recording) as trace,
    ):
        ids = bpf_objects(trace.process.pid)
        truth = seen_as(target.go(), STRDUP)
        await_snapshots(recording)
        trace.process.kill()
        trace.process.wait()
        await_no_probe(ids)
        assert target.process.poll() is None
    report = read_report(recording)
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []
    assert report["recording"]["end_reason"] is None
    text = nativeleak("report", recording)
    assert text.returncode == 0
    assert "the recorder was stopped before it could finish" in " ".join(text.stdout.split())


def test_tracer_killed_at_random_moments_leaves_a_readable_recording_and_no_probe(tmp_path):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    with Target("churn", 10**9, 2, 20011) as target:
        target.send("go")
        for i in range(4):
            recording = tmp_path / f"{i}.nlk"
            with Trace(target, options=["--interval", "0.1s"], output=recording) as trace:
                ids = bpf_objects(trace.process.pid)
                await_snapshots(recording, 1)
                time.sleep(moments.uniform(0.0, 0.3))
                if i == 3:
                    trace.process.send_signal(signal.SIGINT)
                    time.sleep(moments.uniform(0.0, 0.3))
                trace.process.kill()
                trace.process.wait()
            await_no_probe(ids)
            report = read_report(recording)
            assert report["totals"]["heap"]["allocated_count"] > 0, f"seed {seed}"
        target.process.kill()


def test_tracer_killed_before_the_first_snapshot_says_so_in_the_report(tmp_path):
    recording = tmp_path / "none.nlk"
    with Target("exits") as target, Trace(target, output=recording) as trace:
        ids = bpf_objects(trace.process.pid)
        trace.process.kill()
        trace.process.wait()
        await_no_probe(ids)
    done = nativeleak("report", recording)
    assert done.returncode == 0
    assert done.stdout.startswith(f"exits (PID {target.pid}) \N{MIDDLE DOT} traced 0s")
    assert "NOT KNOWN: the recording ends before its first snapshot" in done.stdout
    report = read_report(recording)
    assert (report["target"]["pid"], report["window"]["snapshots"]) == (target.pid, 0)


# ---- how the target ends ----


@pytest.mark.parametrize(
    ("command", "status", "end", "signum"),
    [
        ("exit 0", 0, "exited", 0),
        ("exit 3", 3, "exited", 0),
        ("kill 11", -11, "killed", 11),
        ("kill 9", -9, "killed", 9),
    ],
)
def test_target_that_ends_gives_a_report_with_its_end(command, status, end, signum):
    with Target("exits") as target, Trace(target) as trace:
        truth = target.go()
        target.send(command)
        assert target.wait() == status
        report = trace.wait()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert (report["target"]["end"], report["target"]["end_signal"]) == (end, signum)
    assert report["recording"]["end_reason"] == "target ended"
    assert [line for line in trace.stderr.splitlines() if str(target.pid) in line][1:]


def test_target_that_executes_another_program_ends_the_window_there():
    with Target("execs") as target, Trace(target) as trace:
        truth = target.go()
        target.send("exec")
        target.wait_ready()
        target.go()
        report = trace.wait()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert report["target"]["end"] == "exec"
    functions = {frame["function"] for row in report["sites"] for frame in row["frames"]}
    assert "exec_before" in functions
    assert "exec_after" not in functions


@contextmanager
def memory_cgroup(limit_bytes):
    """A cgroup of version 1 with a limit on memory, removed when the last of its processes is gone."""
    require(os.access(CGROUPS / "cgroup.procs", os.W_OK), "no memory cgroup of version 1 to write to")
    group = CGROUPS / f"nativeleak-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        eventually(lambda: remove(group), "the cgroup is removed")


def remove(group):
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_target_killed_by_the_kernel_for_want_of_memory_is_reported_as_such():
    with memory_cgroup(OOM_LIMIT_BYTES) as group, Target("churn", 1, 1, 0, 1 << 30) as target:
        (group / "cgroup.procs").write_text(str(target.pid))
        with Trace(target) as trace:
            target.send("go")
            assert target.wait(60.0) == -signal.SIGKILL
            report = trace.wait()
            text = nativeleak("report", trace.recording)
    assert check(report) == []
    assert report["target"]["end"] == "oom-killed"
    (site,) = [row for row in report["sites"] if row["outstanding_count"]]
    assert "churn_keep" in {frame["function"] for frame in site["frames"]}
    assert report["completeness"]["lost_allocations"] == 0
    # Every page of the kept blocks was touched; what is missing is the allocator's own share and page tables.
    assert 0.8 * OOM_LIMIT_BYTES < site["outstanding_bytes"] < OOM_LIMIT_BYTES
    assert "OOM killer" in " ".join(text.stdout.splitlines()[:5])


@contextmanager
def grower():
    """A process that maps and writes 64 MiB once a line comes."""
    code = "print(flush=True); input(); bytearray(64 << 20)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process


@pytest.mark.parametrize("engine", ["strace", "pmap"])
def test_engines_without_bpf_tell_the_oom_killer_from_another_kill(engine):
    options = ["--engine", engine, "--interval", "0.2s"]
    with memory_cgroup(OOM_LIMIT_BYTES) as group, grower() as victim, grower() as other:
        for process in (victim, other):
            (group / "cgroup.procs").write_text(str(process.pid))
        with Trace(victim.pid, other.pid, options=options) as trace:
            pidfd = os.pidfd_open(other.pid)
            other.kill()
            assert other.wait() == -signal.SIGKILL
            is_said = engine == "strace" or read_exit_status(pidfd) is not None  # by the kernel since Linux 6.15
            os.close(pidfd)
            trace.wait_line(f"PID {other.pid} {'was ended by signal 9' if is_said else 'has ended: how'}")
            victim.stdin.write(b"\n")
            victim.stdin.flush()
            assert victim.wait() == -signal.SIGKILL
            report = trace.wait()
    assert f"PID {victim.pid} was killed by the kernel's OOM killer" in trace.stderr
    assert check(report) == []
    assert report["target"]["end"] == "oom-killed"


def test_children_of_the_target_do_not_touch_its_ledger():
    with Target("forks", 3) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert report["target"]["end"] == "running"
    functions = {frame["function"] for row in everything["sites"] for frame in row["frames"]}
    assert "fork_child_keep" not in functions
    assert report["completeness"]["unmatched_frees"] == 0


# ---- who is traced, and by whom ----


def test_two_tracers_of_one_target_at_once_are_both_exact():
    with Target("battery") as target, Trace(target) as first, Trace(target) as second:
        truth = seen_as(target.go(), STRDUP)
        reports = [first.stop(), second.stop()]
    for report in reports:
        assert check(report) == []
        assert mismatches(report, truth) == []
        assert strangers(report, truth) == []
        assert totals(report, "heap") == sums(truth, "heap")


def test_two_targets_of_one_tracer_are_both_exact():
    with (
        Target("battery") as battery,
        Target("churn", 1009, 2) as churn,
        Trace(battery, churn) as trace,
    ):
        truths = [seen_as(battery.go(), STRDUP), churn.go()]
        report = trace.stop()
    both = {"sites": [site for truth in truths for site in truth["sites"]]}
    assert check(report) == []
    assert mismatches(report, both) == []
    assert strangers(report, both) == []
    assert totals(report, "heap") == sums(both, "heap")
    assert [target["pid"] for target in report["targets"]] == [battery.pid, churn.pid]
    for target, truth in zip((battery, churn), truths, strict=True):
        tids = {row["thread"]["tid"] for row in report["sites"] if row["pid"] == target.pid}
        assert tids == {site["tid"] for site in truth["sites"] if site["outstanding_bytes"]}


def test_one_of_two_targets_that_ends_leaves_the_other_traced():
    with Target("exits") as first, Target("churn", 1009, 2) as second, Trace(first, second) as trace:
        truths = [first.go()]
        first.send("exit 0")
        first.wait()
        truths.append(second.go())
        report = trace.stop()
    assert check(report) == []
    assert mismatches(report, {"sites": [site for truth in truths for site in truth["sites"]]}) == []
    assert [target["end"] for target in report["targets"]] == ["exited", "running"]


def test_target_in_its_own_pid_and_mount_namespace_is_exact(tmp_path):
    require_program("unshare")
    # Its executable lies on a file system that nobody else sees.
    place = tmp_path / "inside"
    place.mkdir()
    script = 'mount -t tmpfs tmpfs "$1" && cp "$2" "$1"/battery && exec "$1"/battery'
    command = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "sh", "-c", script, "sh", place]
    with Target("battery", command=[*command, target_path("battery")]) as target:
        children = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().split()
        pid = int(children[0])
        assert list(place.iterdir()) == []
        with Trace(pid) as trace:
            truth = seen_as(target.go(), STRDUP)
            tids = read_outer_tids(pid)
            report = trace.stop()
            everything = trace.all_sites()
    for site in truth["sites"]:
        site["tid"] = tids[site["tid"]]
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert report["target"]["exe"] == f"{place}/battery"


def read_outer_tids(pid):
    """Thread id in the innermost PID namespace -> in ours."""
    tids = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        tids[int(status["NSpid"].split()[-1])] = int(task.name)
    return tids


# ---- what it prints ----


def test_quiet_trace_prints_its_report_and_nothing_else():
    with Target("exits") as target, Trace(target) as loud:
        target.go()
        done = nativeleak("trace", "-p", target.pid, "--duration", "0.5s", "--quiet", "-o", f"{loud.recording}.quiet")
        loud.stop()
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith(f"exits (PID {target.pid}) \N{MIDDLE DOT} traced ")


@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_stderr_that_is_no_terminal_has_whole_lines_without_control_characters(verbose):
    with Target("exits") as target, Trace(target, options=verbose) as trace:
        target.go()
        target.send("exit 0")
        trace.wait()
    assert re.findall(r"[^\x20-\x7e\n]", trace.stderr) == []
    assert all(line.startswith("nativeleak: ") for line in trace.stderr.splitlines())


@pytest.mark.parametrize("format_name", ["text", "folded", "none"])
def test_stdout_carries_the_report_alone(format_name):
    with Target("exits") as target, Trace(target, options=["--format", format_name]) as trace:
        truth = target.go()
        trace.process.send_signal(signal.SIGINT)
        assert trace.wait_end() == 0
        again = nativeleak("report", trace.recording, "--format", format_name) if format_name != "none" else None
    assert trace.stdout == (again.stdout if again else "")
    if format_name == "folded":
        (site,) = truth["sites"]
        (line,) = trace.stdout.splitlines()
        assert re.fullmatch(rf"exits;.*;exit_keep;malloc {site['outstanding_bytes']}", line)


ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """``nativeleak`` on a terminal of its own, as a person runs it."""

    def __init__(self, *arguments):
        self.screen = ""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ["TERM"] = "xterm"
            words = [sys.executable, "-m", "nativeleak", *map(str, arguments)]
            os.execv(words[0], words)  # noqa: S606
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def read_until(self, pattern, timeout_s=30.0):
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, ANSI.sub("", self.screen))):
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TargetError(f"no {pattern!r} on the terminal in {timeout_s} s: {self.screen!r}")
            if not self._read():
                raise TargetError(f"no {pattern!r} on the terminal: {self.screen!r}")
        return found

    def _read(self):
        try:
            part = os.read(self.fd, 1 << 16)
        except OSError:  # EIO: the other side is closed
            return False
        self.screen += part.decode(errors="replace")
        return bool(part)

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait(self):
        """Read to the end; its status."""
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self):
        os.close(self.fd)


def test_live_view_on_a_terminal_shows_the_sites_and_leaves_the_report(tmp_path):
    with Target("churn", 503, 2) as target:
        terminal = Terminal("trace", "-p", target.pid, "--duration", "10m", "-o", tmp_path / "live.nlk")
        terminal.read_until("nativeleak: tracing")
        truth = target.go()
        kept = [site for site in truth["sites"] if site["outstanding_count"]]
        view = terminal.read_until(r"of 10m 00s\s+RSS (\S+) MiB\s+outstanding (\S+) KiB in 202 allocations")
        assert float(view[2]) == round(sum(site["outstanding_bytes"] for site in kept) / 1024, 1)
        terminal.read_until(r"101\s+churn-[01]\s+churn_keep")
        terminal.type("\x03")
        status = terminal.wait()
        terminal.close()
    assert status == 0
    # The view is wiped off, the cursor is back, and the report stands below.
    assert terminal.screen.rindex("\x1b[?25h") > terminal.screen.rindex("\x1b[?25l")
    shown = ANSI.sub("", terminal.screen[terminal.screen.rindex("\x1b[?25h") :])
    assert "churn_keep" in shown
    assert "Outstanding  " in shown


@pytest.mark.parametrize(
    ("engine", "row"), [("strace", r"6 MiB\s+1\s+(maps|second)\s+maps_transparent_huge"), ("pmap", r"\s\d+\s.*\[.+\]")]
)
def test_live_view_of_an_engine_without_bpf_shows_its_sites(engine, row, tmp_path):
    require_program("strace")
    with Target("maps") as target:
        options = ["--engine", engine, "--duration", "10m", "--interval", "0.2s", "-o", tmp_path / "live.nlk"]
        terminal = Terminal("trace", "-p", target.pid, *options)
        terminal.read_until("nativeleak: tracing")
        truth = target.go()
        n_bytes = sum(site["outstanding_bytes"] for site in truth["sites"] if site["kind"] == "map")
        terminal.read_until(rf"of 10m 00s\s+RSS \S+ MiB\s+outstanding {n_bytes / (1 << 20):.1f} MiB\s+growth")
        terminal.read_until(row)
        terminal.type("\x03")
        status = terminal.wait()
        terminal.close()
    assert status == 0
