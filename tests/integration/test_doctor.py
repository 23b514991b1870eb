"""The doctor on this machine, with and without rights, with and without a process; it leaves nothing attached."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import nativeleak as package
from nativeleak.process.hazards import filters_deny_probes
from support import ANSWER_TIMEOUT_S, ROOT, Target, Trace, leaker, nativeleak, own_libc, require, require_program

NOBODY = 65534


def doctor(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = nativeleak("doctor", "--format", "json", *arguments)
    assert done.returncode == status, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in document["checks"]}


def our_programs() -> set[int]:
    """Ids of the programs in the kernel that are named as ours are."""
    shown = subprocess.run(["bpftool", "-j", "prog"], capture_output=True, text=True, check=True)
    return {program["id"] for program in json.loads(shown.stdout) if program.get("name", "").startswith("on_")}


def test_doctor_as_root_counts_every_call_and_leaves_nothing():
    require_program("bpftool")
    before = our_programs()
    document = doctor()
    checks = by_name(document)
    ways = [checks[name] for name in ("uprobe session", "uprobe multi", "perf events")]
    used = [way for way in ways if way["detail"].endswith("trace uses this")]
    assert len(used) == 1
    assert used[0]["state"] == "ok"
    assert used[0]["detail"].startswith("202 of 202 malloc calls and 202 of 202 free calls counted")
    assert checks["system calls"]["detail"] == "13 of 13 mmap calls seen"
    assert document["verdict"] in ("works", "restricted")
    # Those of another test that traces meanwhile go when it ends; what the doctor left behind would stay.
    left = our_programs() - before
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left &= our_programs()
    assert not left


def test_doctor_under_a_filter_that_denies_the_unknown_says_whether_return_probes_survive_it():
    """Its child is under the filter too. Linux 6.11 to 6.13 let the filter deny return probes; the child ends there."""
    require(platform.machine() == "x86_64", "return probes are system calls on x86-64 only")
    denying = [sys.executable, ROOT / "tests/tools/denying.py", sys.executable, "-m", "nativeleak", "doctor"]
    done = subprocess.run([*denying, "--format", "json"], capture_output=True, text=True, check=False)
    checks = by_name(json.loads(done.stdout))
    assert checks["seccomp"]["detail"].startswith("a seccomp filter is active")
    said = json.dumps(list(checks.values()))
    if filters_deny_probes(platform.release()):
        assert done.returncode != 0
        assert "our own seccomp filter, and on Linux 6.11 to 6.13" in said
        assert "--maps-only" in said
    else:
        assert done.returncode == 0
        assert "202 of 202 malloc calls" in said
    assert "did not answer" not in said


def test_doctor_text_ends_in_the_verdict_without_control_characters():
    done = nativeleak("doctor")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("trace will work")
    assert "\x1b" not in done.stdout


def test_doctor_battery_lists_libc_and_its_functions(tmp_path):
    with Target("battery", env=own_libc(tmp_path)) as target:
        document = doctor("-p", target.pid)
        checks = by_name(document)
        assert f"PID {target.pid} (battery)" in checks["target"]["detail"]
        count, _, functions = checks["allocator libc.so.6"]["detail"].partition(" functions: ")
        names = functions.split(", ")
        assert int(count) == len(names) >= 9
        assert {"malloc", "calloc", "realloc", "free", "posix_memalign"} <= set(names)
        assert checks["symbols battery"]["state"] == "ok"
        assert ".symtab" in checks["symbols battery"]["detail"]
        assert "other tracers" not in checks


def test_doctor_names_functions_that_another_tracer_holds_probes_on(tmp_path):
    with Target("battery", env=own_libc(tmp_path)) as target, Trace(target) as other:
        check = by_name(doctor("-p", target.pid))["other tracers"]
        other.stop()
    assert check["state"] == "warn"
    assert check["detail"].startswith("another tracer holds a probe on ")
    assert "malloc of libc.so.6" in check["detail"]


def test_doctor_stripped_static_program_offers_maps_only():
    with Target("static_stripped") as target:
        check = by_name(doctor("-p", target.pid))["allocators"]
    assert check["state"] == "warn"
    assert "--maps-only" in check["remedy"]


@pytest.mark.jvm
def test_doctor_jvm_says_version_and_that_java_frames_are_shown():
    with leaker() as target:
        checks = by_name(doctor("-p", target.pid))
    assert checks["JVM"]["detail"].startswith("version ")
    assert checks["JVM"]["detail"].endswith("/libjvm.so")
    assert checks["Java stacks"]["state"] == "ok"
    assert int(checks["Java stacks"]["detail"].split("; ")[1].split()[0]) >= 5
    assert checks["stacks"]["state"] == "ok"


def test_doctor_no_such_pid_prints_the_machine_and_exits_4():
    # A process that has ended: its PID is free until PIDs wrap around.
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    done = nativeleak("doctor", "-p", child.pid)
    assert done.returncode == 4
    assert "uprobe session" in done.stdout
    assert done.stdout.splitlines()[-1] == "trace cannot work here: target"
    assert done.stderr.startswith(f"nativeleak: trace of PID {child.pid} failed: no such process\n")


def test_doctor_without_rights_says_what_is_missing_and_exits_3():
    require_program("setpriv")
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # An interpreter in root's home cannot be run by others: take the system's, with our path.
    python = next((p for p in (shutil.which("python3", path="/usr/bin:/usr/local/bin"),) if p), None)
    require(python, "no python3 in /usr/bin for other users")
    path = [str(Path(package.__file__).parent.parent), *(entry for entry in sys.path if "site-packages" in entry)]
    environment = {"PYTHONPATH": ":".join(path), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
    probe = [*as_nobody, str(python), "-c", "import sys, nativeleak, click; assert sys.version_info >= (3, 11)"]
    usable = subprocess.run(probe, env=environment, capture_output=True, check=False, cwd="/")
    require(usable.returncode == 0, "the package cannot be imported by other users")
    done = subprocess.run(
        [*as_nobody, str(python), "-m", "nativeleak", "doctor", "-p", "1"],
        env=environment, capture_output=True, text=True, check=False, timeout=60, cwd="/",
    )  # fmt: skip
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split(None, 2) == ["FAIL", "rights", f"user {NOBODY} without CAP_BPF and CAP_PERFMON"]
    assert lines[-1].startswith("trace cannot work here: rights, ")


def test_doctor_in_an_inner_pid_namespace_sees_every_call():
    require_program("unshare")
    done = subprocess.run(
        ["unshare", "--pid", "--mount", "--fork", "--mount-proc", sys.executable, "-m", "nativeleak", "doctor"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert "not the host's (a container)" in done.stdout
    assert done.stdout.splitlines()[-1] == "trace will work"
