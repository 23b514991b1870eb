"""Processes named otherwise than by their PID, and the list of all of them."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.process.procfs import read_rss
from support.target import Target, target_path

_NATIVELEAK = (sys.executable, "-m", "nativeleak")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_NATIVELEAK, *words], check=False, capture_output=True, text=True)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Target, Target, str]]:
    """Two targets of one name that nothing else has, the second with more memory; and the name."""
    name = f"nlsame{os.getpid() % 100000}"
    program = shutil.copy(target_path("peeked"), tmp_path / name)
    with Target("peeked", 1, command=[program]) as small, Target("peeked", 24, command=[program]) as large:
        yield small, large, name


def test_one_match_is_taken_and_named(two: tuple[Target, Target, str]) -> None:
    small, large, name = two
    large.close()
    done = _run("triage", "--name", name, "--user", str(os.getuid()), "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["target"]["pid"] == small.pid
    assert f"--name {name} --user {os.getuid()}: {name} (PID {small.pid})" in done.stderr


@pytest.mark.parametrize("verb", ["triage", "maps", "doctor", "trace", "peek"])
def test_several_matches_are_listed_the_largest_first(two: tuple[Target, Target, str], verb: str) -> None:
    small, large, name = two
    done = _run(verb, "--name", f"{name[:-1]}?", *(["1000"] if verb == "peek" else []))
    assert (done.returncode, done.stdout) == (2, "")
    listed = [int(line.split()[0]) for line in done.stderr.splitlines()[2:4]]
    assert listed == [large.pid, small.pid]
    assert f"Choose one: -p {large.pid}" in done.stderr


def test_on_a_terminal_the_list_is_asked_about(two: tuple[Target, Target, str]) -> None:
    small, _, name = two
    ours, theirs = pty.openpty()
    command = [*_NATIVELEAK, "maps", "--name", name, "--format", "json"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True) as asked:
        os.close(theirs)
        os.write(ours, f"{small.pid}\n".encode())
        out, _ = asked.communicate(timeout=60)
    os.close(ours)
    assert json.loads(out)["target"]["pid"] == small.pid


def test_no_match_is_said_with_status_4() -> None:
    done = _run("triage", "--name", "no-such-program-anywhere")
    assert done.returncode == 4
    assert "no process matches" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["triage", "-p", "1", "--name", "x"], "a PID and --name x are given"),
        (["triage", "--container", "nothex"], "not an ID of a container"),
    ],
)
def test_what_cannot_be_is_wrong_usage(words: list[str], said: str) -> None:
    done = _run(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_top_has_every_process_with_what_the_kernel_says(two: tuple[Target, Target, str]) -> None:
    small, large, name = two
    report = json.loads(_run("top", "--once", "--name", name, "--format", "json").stdout)
    assert [process["pid"] for process in report["processes"]] == [large.pid, small.pid]
    for process in report["processes"]:
        assert process["rss_bytes"] == pytest.approx(read_rss(process["pid"]), abs=512 << 10)
        assert process["growth_bytes"] is None
    text = _run("top", "--once", "--name", name).stdout
    assert [line.split()[0] for line in text.splitlines()[2:]] == [str(large.pid), str(small.pid)]


def test_top_counts_growth_between_looks(tmp_path: Path) -> None:
    name = f"nlgrow{os.getpid() % 100000}"
    program = shutil.copy(target_path("grows"), tmp_path / name)
    with Target("grows", command=[program]) as target:
        command = [*_NATIVELEAK, "top", "--count", "2", "--every", "3s", "--name", name, "--format", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
            assert top.stdout is not None
            first = json.loads(top.stdout.readline())
            target.ask("map 32")
            second = json.loads(top.stdout.readline())
    assert first["processes"][0]["growth_bytes"] is None
    assert second["processes"][0]["growth_bytes"] == pytest.approx(32 << 20, rel=0.05)
