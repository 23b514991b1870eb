"""Targets in containers, seen from outside; and the tool itself inside of one."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import (
    TRACEFS,
    Target,
    Trace,
    eventually,
    mismatches,
    nativeleak,
    require_program,
    strangers,
    sums,
    target_path,
    totals,
)
from tools.check_report import check

CONTAINER = ("unshare", "--pid", "--mount-proc", "--net", "--ipc", "--uts", "--fork", "--kill-child")
USER = ("unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--net", "--fork", "--kill-child")
KEEPS_ITSELF = ("sh", "-c", '"$@"; exec sleep 1000', "sh")
"""The first process of a container, which outlives its only child: that is PID 2."""

# A root as Alpine has it, over an overlay that nobody else sees: musl as the loader, an application, nothing else.
ALPINE = """
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir -p lower/lib lower/proc upper work root
cp "$2" lower/lib/ld-musl-x86_64.so.1
cp "$3" lower/app
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root
mount -t proc proc root/proc
exec chroot root /app
"""


def child_of(pid):
    """The one child of a process, by our PID."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    eventually(lambda: children.read_text().split(), f"a child of {pid}")
    return int(children.read_text().split()[0])


@contextmanager
def contained(name, container=CONTAINER):
    """A target that is PID 2 of its container; gives it and its PID as ours."""
    require_program("unshare")
    with Target(name, command=[*container, *KEEPS_ITSELF, target_path(name)]) as target:
        try:
            yield target, child_of(child_of(target.pid))
        finally:
            target.process.kill()


def outer(truth, pid):
    """The truth with thread ids as ours, of a target that lives; main threads of targets do."""
    tids = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        tids[int(ids[-1])] = int(task.name)
    for site in truth["sites"]:
        site["tid"] = tids[site["tid"]]
    return truth


def assert_exact(report, everything, truth):
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert [line for line in strangers(report, truth) if line.startswith("heap")] == []
    assert totals(report, "heap") == sums(truth, "heap")


@pytest.mark.parametrize("container", [CONTAINER, USER], ids=["privileged", "rootless"])
def test_target_named_by_its_pid_inside_is_exact(container):
    with contained("portable", container) as (target, pid):
        with Trace(options=["--ns-pid", 2, "--ns-of", child_of(target.pid)]) as trace:
            truth = outer(target.go(), pid)
            report = trace.stop()
            everything = trace.all_sites()
        assert report["target"]["pid"] == pid
    assert_exact(report, everything, truth)


def test_pid_inside_that_several_containers_have_is_refused_with_their_names(tmp_path):
    with contained("portable") as (first, _), contained("churn") as (second, _):
        pids = [child_of(child_of(target.pid)) for target in (first, second)]
        done = nativeleak("trace", "--ns-pid", 2, "--duration", "1s", "-o", tmp_path / "trace.nlk")
        assert done.returncode == 2
        what, remedy = done.stderr.splitlines()
        assert what.startswith("nativeleak: --ns-pid 2: ")
        assert f"{pids[0]} (portable)" in what
        assert f"{pids[1]} (churn)" in what
        assert "--ns-of" in remedy
        looked = nativeleak("doctor", "--ns-pid", 2, "--ns-of", pids[1], "--format", "json")
    checks = {entry["name"]: entry for entry in json.loads(looked.stdout)["checks"]}
    assert checks["target"]["detail"].startswith(f"PID {pids[1]} (churn)")


def test_pid_inside_that_nobody_has_is_no_target(tmp_path):
    with contained("portable") as (_, pid):
        done = nativeleak("trace", "--ns-pid", 4711, "--ns-of", pid, "-o", tmp_path / "trace.nlk")
    assert done.returncode == 4
    assert f"there is no process 4711 in the PID namespace of process {pid}" in done.stderr


def test_musl_on_an_overlay_with_its_library_deleted_is_exact(tmp_path):
    require_program("musl-gcc")
    libc = Path("/lib/ld-musl-x86_64.so.1").resolve()
    command = [*CONTAINER, "sh", "-c", ALPINE, "sh", tmp_path, libc, target_path("musl")]
    with Target("musl", command=command) as target:
        pid = child_of(target.pid)
        Path(f"/proc/{pid}/root/lib/ld-musl-x86_64.so.1").unlink()
        with Trace(pid) as trace:
            truth = outer(target.go(), pid)
            report = trace.stop()
            everything = trace.all_sites()
    assert_exact(report, everything, truth)
    assert report["target"]["exe"].endswith("/app")
    assert [name.removesuffix(" (deleted)") for name in report["target"]["allocators"]] == ["ld-musl-x86_64.so.1"]


FEW = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"
"""Capabilities of a container that has no more than it needs, as setpriv(1) takes them."""
RIGHTS = {"all": "", "few": FEW, "few and SYS_ADMIN": f"{FEW},+sys_admin"}


@pytest.mark.parametrize("rights", RIGHTS)
def test_tool_inside_the_targets_container_is_exact(rights, tracefs_state):
    with contained("battery") as (target, pid):
        inside = ["nsenter", "--target", str(pid), "--pid", "--mount", *TRACEFS[tracefs_state]]
        if RIGHTS[rights]:
            inside += ["setpriv", f"--bounding-set={RIGHTS[rights]}", f"--inh-caps={RIGHTS[rights]}", "--no-new-privs"]
        with Trace(2, within=inside) as trace:
            truth = target.go()
            # Ends the target; the first process of its container stays.
            target.process.stdin.close()
            report = trace.wait()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert report["target"]["pid"] == 2
    assert report["target"]["end"] == "exited"


def test_tool_inside_a_container_refuses_a_target_in_one_within_by_bpf():
    within = ("unshare", "--pid", "--mount-proc", "--fork", "--kill-child")
    with contained_in(within) as (pid, inner_pid):
        tool = ("nsenter", "--target", str(pid), "--pid", "--mount")
        with Trace(inner_pid, options=["--engine", "libbpf"], within=tool, attaches=False) as trace:
            assert trace.wait_end() == 3
            assert not trace.recording.exists()
    assert "it is in a PID namespace within ours, which is not the host's" in trace.stderr


def test_tool_inside_a_container_takes_strace_for_a_target_in_one_within():
    require_program("strace")
    within = ("unshare", "--pid", "--mount-proc", "--fork", "--kill-child")
    with contained_in(within) as (pid, inner_pid):
        tool = ("nsenter", "--target", str(pid), "--pid", "--mount")
        with Trace(inner_pid, options=["--duration", "1s"], within=tool) as trace:
            report = trace.wait()
    assert report["tool"]["backend"] == "strace"
    assert trace.stderr.startswith(
        f"nativeleak: falling back to strace (trace of PID {inner_pid} failed: it is in a PID "
    )


@contextmanager
def contained_in(within):
    """A container in another; gives the outer one's first process, by our PID, and the target, by the outer one's."""
    with Target("portable", command=[*CONTAINER, *KEEPS_ITSELF, *within, target_path("portable")]) as target:
        try:
            first = child_of(target.pid)
            inner = Path(f"/proc/{child_of(child_of(first))}/status").read_text()
            ids = next(line for line in inner.splitlines() if line.startswith("NSpid:")).split()
            yield first, int(ids[-2])
        finally:
            target.process.kill()
