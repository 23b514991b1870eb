"""With tracefs mounted and without, whatever this machine has: the same figures, and each says what was used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import TRACEFS, WITH_TRACEFS, WITHOUT_TRACEFS, Target, Trace, mismatches, require_program, strangers

EVENTS = ("/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events")
OWN_MOUNT = "used a private mount of our own"
BY_TRACEPOINTS = ("-v", "--engine", "libbpf", "--syscalls", "tracepoints")


def seen_within(*within: str) -> list[str]:
    """Which of ``EVENTS`` are there for a command that is run so."""
    listed = [*within, "sh", "-c", 'for path; do [ ! -d "$path" ] || echo "$path"; done', "sh", *EVENTS]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


def test_surroundings_are_what_they_say_from_either_state_and_the_machine_stays_as_it_is():
    require_program("unshare", "mountpoint")
    mounts = Path("/proc/self/mountinfo").read_text()
    assert EVENTS[0] in seen_within(*WITH_TRACEFS)
    assert EVENTS[0] in seen_within(*WITHOUT_TRACEFS, *WITH_TRACEFS)
    assert seen_within(*WITHOUT_TRACEFS) == []
    assert seen_within(*WITH_TRACEFS, *WITHOUT_TRACEFS) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.parametrize("name", ["maps", "brk"])
def test_system_calls_by_tracepoints_are_exact_and_an_own_mount_is_noted(name, tracefs_state):
    with Target(name) as target, Trace(target, options=BY_TRACEPOINTS, within=TRACEFS[tracefs_state]) as trace:
        truth = target.go()
        report = trace.stop()
    assert (OWN_MOUNT in trace.stderr) == (tracefs_state == "not mounted")
    assert report["completeness"]["lost_events"] == 0
    assert mismatches(report, truth, kinds=("map", "brk")) == []
    assert strangers(report, truth) == []


def test_doctor_says_where_tracepoints_come_from(tracefs_state):
    command = [*TRACEFS[tracefs_state], sys.executable, "-m", "nativeleak", "doctor", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "tracepoints"]
    assert check["state"] == "ok"
    where = {"mounted": ", in tracefs", "not mounted": ", in a private mount of tracefs, the host has none"}
    assert check["detail"].endswith(where[tracefs_state])
