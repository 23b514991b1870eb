"""A watch of real processes: rates of known leaks, alarms, the end of the process. No probe is used."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from memory_group import MemoryGroup, require_memory_group
from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.difference import ClassChange, difference, sizes_of
from nativeleak.heaps.glibc.walk import walk_glibc
from nativeleak.heaps.jemalloc import walk_jemalloc
from nativeleak.heaps.memory import HeapMemory
from nativeleak.heaps.musl import walk_musl
from nativeleak.process.procfs import read_exe, read_maps
from support import ANSWER_TIMEOUT_S, IS_LONG, LineReader, Target, eventually, nativeleak, preload, target_path

Entry = dict[str, Any]

N_KILLS = 30 if IS_LONG else 2


class Watch:
    """``nativeleak watch --format json`` in the background; a context manager."""

    def __init__(self, target: Target, *options: object) -> None:
        words = [sys.executable, "-m", "nativeleak", "watch", "-p", str(target.pid), "--format", "json"]
        self.process = subprocess.Popen(
            [*words, *(str(option) for option in options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self._lines = LineReader(self.process.stdout.fileno())
        self.entries: list[Entry] = []

    def next(self) -> Entry | None:
        line = self._lines.readline(ANSWER_TIMEOUT_S)
        if line is not None:
            self.entries.append(json.loads(line))
        return None if line is None else self.entries[-1]

    def until(self, kind: str, count: int = 1) -> Entry:
        """Read on to an entry of a kind, or to the count-th."""
        while (entry := self.next()) is not None:
            if entry["kind"] == kind and sum(each["kind"] == kind for each in self.entries) >= count:
                return entry
        raise AssertionError(f"no {kind} {count}: {self.rest()}")

    def rest(self) -> str:
        """Read to its end; what it said on stderr."""
        while self.next() is not None:
            pass
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        self.process.wait(30.0)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._lines.close()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


def _walk(target: Target, kind: str) -> HeapWalk:
    maps = read_maps(target.pid)
    with HeapMemory(target.pid) as memory:
        if kind == "musl":
            return walk_musl(memory, maps)
        return walk_jemalloc(memory, maps) if kind == "jemalloc" else walk_glibc(memory, maps, read_exe(target.pid))


@pytest.mark.parametrize("kind", ["glibc", "musl", "jemalloc"])
def test_difference_of_two_walks_is_what_the_program_kept(kind: str) -> None:
    program, env = (
        ("drips_musl", {}) if kind == "musl" else ("drips", preload("jemalloc") if kind == "jemalloc" else {})
    )
    with Target(program, env=env) as target:
        before = _walk(target, kind)
        for command in ("keep 200 7001", "churn 20011", "keep 3000 1499", "churn 20011"):
            target.ask(command)
        after = _walk(target, kind)
    changes = difference(sizes_of([before]), sizes_of([after]))
    largest: list[ClassChange] = sorted(changes, key=lambda change: -change.bytes_change)[:2]
    grown = {min(change.sizes): change.n_change for change in largest}
    small, large = sorted(grown)
    assert small in range(200, 257)
    assert large in range(3000, 3585)
    # The churn of 5,000 blocks takes and leaves blocks of these sizes, and a thread's cache keeps a few.
    assert grown[small] == pytest.approx(7001, abs=100)
    # musl puts the first blocks of a size into a larger class.
    assert grown[large] == pytest.approx(1499, abs=20)


def test_watch_names_the_growing_size_with_its_rate_and_lines_add_up(tmp_path: Path) -> None:
    output, alarmed = tmp_path / "last.jsonl", tmp_path / "alarmed"
    command = f'echo "$NATIVELEAK_ALARM $NATIVELEAK_PID" >> {alarmed}'
    with Target("drips") as target:
        target.send("drip 200 5003")
        options = ("--every", "1s", "--growth-above", "20M/min", "--run", command, "-o", output)
        with Watch(target, *options) as watch:
            reading = watch.until("reading", 4)
            watch.until("alarm")
            eventually(lambda: alarmed.exists() and alarmed.read_text().endswith("\n"), "the command has run")
            watch.process.send_signal(signal.SIGINT)
            said = watch.rest()
    assert watch.process.returncode == 0
    assert "started: echo" in said
    assert alarmed.read_text() == f"growth-above {target.pid}\n"
    assert sum(line["resident_bytes"] for line in reading["lines"]) == pytest.approx(reading["rss_bytes"], rel=0.05)
    live = next(line for line in reading["lines"] if line["id"] == "malloc-live")
    assert live["growth"]["verdict"] == "growing"
    leak = reading["size_classes"][0]
    assert leak["bytes"] == [208, 224]
    assert leak["requests"] == [185, 216]
    assert leak["growth"]["verdict"] == "growing"
    # A reading has a time of its own: on a busy machine seconds, of some twenty that are watched.
    assert leak["blocks_per_s"] == pytest.approx(5003, rel=0.15)
    assert leak["growth"]["ci95"][0] > 0
    costs = [entry["cpu_s"] for entry in watch.entries if entry["kind"] == "reading"]
    apart = [entry["elapsed_s"] for entry in watch.entries if entry["kind"] == "reading"]
    for (first_s, cost_s), next_s in zip(zip(apart, costs, strict=True), apart[1:], strict=False):
        assert next_s - first_s >= min(100 * cost_s, 600) - 0.01
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert [kept[0]["kind"], kept[-1]["kind"], kept[-1]["reason"]] == ["start", "end", "interrupted"]
    assert {entry["kind"] for entry in kept} >= {"reading", "status", "alarm", "note"}


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    require_memory_group()
    with MemoryGroup(120) as made:
        yield made


def test_oom_kill_ends_a_watch_with_all_up_to_then_and_the_kernels_words(group: MemoryGroup, tmp_path: Path) -> None:
    output = tmp_path / "last.jsonl"
    command = [*group.within, target_path("drips")]
    with Target("drips", command=command) as target, Watch(target, "--every", "1s", "-o", output) as watch:
        watch.until("reading")
        target.send("hold 70")
        while (watch.next() or {"rss_bytes": 1 << 60}).get("rss_bytes", 0) < 70 << 20:
            pass
        target.send("hold 100")
        assert target.wait(60.0) == -signal.SIGKILL
        watch.rest()
    assert watch.process.returncode == 0
    end = watch.entries[-1]
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert kept[-1]["target_end"] == end["target_end"] == "oom-killed"
    assert (kept[0]["kind"], end["reason"]) == ("start", "target ended")
    assert max(entry.get("rss_bytes", 0) for entry in kept) >= 70 << 20
    if end["oom"] is not None:  # the kernel's log may not be readable in a container
        assert end["oom"]["pid"] == target.pid
        assert end["oom"]["limit_kb"] == 120 << 10
        assert 100 << 10 < end["oom"]["anon_rss_kb"] <= 120 << 10
        told = json.loads(nativeleak("oom", "--kmsg", "--format", "json").stdout)["events"]
        assert [event["anon_rss_kb"] for event in told if event["pid"] == target.pid] == [end["oom"]["anon_rss_kb"]]
    else:
        assert str(group.path) in end["text"]


def test_end_of_the_process_is_told_with_its_signal_or_status() -> None:
    with Target("drips") as target, Watch(target, "--every", "1s") as watch:
        watch.until("reading")
        target.process.terminate()
        target.wait()
        watch.rest()
    assert watch.entries[-1]["target_end"] in ("killed", "exited")  # kernels before 6.15 do not say how
    if watch.entries[-1]["signal"] is not None:
        assert watch.entries[-1]["text"] == "ended by signal SIGTERM"


def test_watch_on_a_terminal_is_a_screen_and_leaves_the_page() -> None:
    with Target("drips") as target:
        target.send("drip 200 5003")
        words = [
            sys.executable,
            "-m",
            "nativeleak",
            "watch",
            "-p",
            str(target.pid),
            "--every",
            "1s",
            "--rss-above",
            "1M",
        ]
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ |= {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
            # Four readings of the heap tell which sizes grow; on a busy machine some take longer than a second.
            os.execv(words[0], [*words, "--duration", "8s"])  # noqa: S606
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone with the watch
            while part := os.read(terminal, 1 << 16):
                shown += part
        status = os.waitpid(pid, 0)[1]
        os.close(terminal)
    screen, _, page = shown.decode().rpartition("\x1b[?25h")  # the cursor is shown again
    assert status == 0
    assert "watching drips" in screen
    assert "next full reading in" in screen
    assert "size classes that grow" in page
    assert "is above 1 MiB" in page
    assert f"drips (PID {target.pid}), watched for 8s" in page


def test_kill_at_any_moment_of_a_reading_ends_the_watch_in_order() -> None:
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for _ in range(N_KILLS):
        with Target("heap_states", "live", 20011, 4) as target, Watch(target, "--every", "0.1s") as watch:
            watch.until("start")
            time.sleep(moments.uniform(0.0, 0.4))  # a moment of the first reading, or just after it
            target.process.kill()
            target.wait()
            said = watch.rest()
        assert watch.process.returncode == 0, f"seed {seed}: {said}"
        assert watch.entries[-1]["kind"] == "end", f"seed {seed}: {said}"
        assert watch.entries[-1]["reason"] == "target ended"
        assert "Traceback" not in said


def test_watch_of_nobody_has_status_4_and_actions_need_an_alarm() -> None:
    assert nativeleak("watch", "-p", 4194304).returncode == 4
    done = nativeleak("watch", "-p", 1, "--run", "true")
    assert done.returncode == 2
    assert "--run needs an alarm" in done.stderr
