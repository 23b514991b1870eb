"""Files that programs of this machine write: pmap of every flavour, strace of a killed target, a real OOM kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import Target, eventually, nativeleak, require, require_program, require_root

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
LIMIT_KB = 32 << 10
SLEEPING = """
import mmap, os, sys, threading
ready, over, kept = threading.Event(), threading.Event(), []
def hold(n_mib):
    kept.append(mmap.mmap(-1, n_mib << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
def work():
    hold(3)
    ready.set()
    over.wait()
thread = threading.Thread(target=work)
thread.start()
ready.wait()
for _ in range(7):
    hold(5)
over.set()
thread.join()
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def read(*files):
    done = nativeleak("triage", "--input", *files, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["inputs"]


def test_every_flavour_of_pmap_has_the_sums_of_smaps(tmp_path):
    require_program("pmap")
    with Target("rate", 97) as target:
        (tmp_path / "smaps").write_text(Path(f"/proc/{target.pid}/smaps").read_text())
        for flavour in ("", "-x", "-X", "-XX", "-d"):
            command = ["pmap", *flavour.split(), str(target.pid)]
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            (tmp_path / f"pmap{flavour}").write_text(listed)
        lines = (tmp_path / "pmap-x").read_text().splitlines(keepends=True)
    (tmp_path / "sorted").write_text("".join(sorted(lines, key=lambda line: line.split()[2:3])))
    files = sorted(tmp_path.iterdir())
    by_name = {Path(each["file"]).name: each for each in read(*files)}
    wanted = by_name.pop("smaps")["values"]
    for name, each in by_name.items():
        found = each["values"]
        assert (found["pid"], found["mappings"], found["mapped_kb"]) == (
            target.pid, wanted["mappings"], wanted["mapped_kb"],
        ), name  # fmt: skip
        assert found["complete"] is True, name
        assert each["unread_lines"] == 0, name
        assert found["rss_kb"] in (None, wanted["rss_kb"]), name
    assert by_name["sorted"]["values"]["rss_kb"] == by_name["pmap-X"]["values"]["rss_kb"] == wanted["rss_kb"]


def test_target_killed_under_strace_on_stderr_is_read_as_the_process_it_was(tmp_path):
    require_program("strace")
    output = tmp_path / "strace.txt"
    with output.open("w") as stderr:
        command = ["strace", "-f", "-e", "trace=mmap,munmap,clone,clone3,execve", sys.executable, "-c", SLEEPING]
        tracer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        with tracer:
            assert tracer.stdout is not None
            pid = int(tracer.stdout.readline())
            os.kill(pid, signal.SIGKILL)
    (found,) = read(output)
    values = found["values"]
    assert (values["pid"], values["end"], found["unread_lines"]) == (pid, "killed by SIGKILL", 0)
    assert values["threads"][str(pid)] >= 7 * (5 << 20)
    done = nativeleak("trace", "--input", output, "-o", tmp_path / "x.nlk", "--format", "json")
    report = json.loads(done.stdout)
    assert (report["target"]["pid"], report["target"]["end"]) == (pid, "killed")
    assert report["totals"]["map"]["outstanding_bytes"] >= 7 * (5 << 20) + (3 << 20)


@pytest.fixture
def group():
    """A memory group with a limit of ``LIMIT_KB``, of either version."""
    require_root()
    is_v1 = os.access(V1 / "memory.limit_in_bytes", os.R_OK)
    controllers = V2 / "cgroup.subtree_control"
    has_v2 = controllers.exists() and "memory" in controllers.read_text().split()
    require(is_v1 or has_v2, "no cgroup with the memory controller")
    path = (V1 if is_v1 else V2) / f"nativeleak-oom-{os.getpid()}"
    path.mkdir()
    (path / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(LIMIT_KB << 10))
    swap = path / ("memory.memsw.limit_in_bytes" if is_v1 else "memory.swap.max")
    if swap.exists():
        swap.write_text(str(LIMIT_KB << 10 if is_v1 else 0))
    yield path
    eventually(lambda: is_removed(path), f"{path} removed")


def is_removed(path):
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def test_real_kill_in_a_group_is_told_from_the_kernels_buffer(group):
    within = ["sh", "-e", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    victim = subprocess.run([*within, sys.executable, "-c", "bytearray(200 << 20)"], check=False)
    assert victim.returncode == -signal.SIGKILL
    done = nativeleak("oom", "--kmsg", "--format", "json", "--jvm-flags", "-Xmx64m")
    require(done.returncode == 0, f"the kernel's buffer: {done.stderr}")
    document = json.loads(done.stdout)
    (event,) = [each for each in document["events"] if group.name in (each["limit_cgroup"] or "")]
    assert (event["killer"], event["killed"], event["scope"]) == ("kernel", True, "memcg")
    assert (event["limit_kb"], event["uid"]) == (LIMIT_KB, os.getuid())
    assert 0.5 * LIMIT_KB < event["anon_rss_kb"] <= LIMIT_KB
    assert event["total_vm_kb"] >= 200 << 10
    assert event["limit_cgroup"] == event["victim_cgroup"]
    assert event["comm"].startswith("python")
    assert event["time"].endswith("Z")
    assert document["jvm"]["exceeds"] is True
