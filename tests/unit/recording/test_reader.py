"""The reader: files that are none of ours, damaged, newer, or cut off."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.engines.registry import coverage_of
from nativeleak.errors import RecordingError
from nativeleak.model import Child, Coverage, RuntimeInfo, StackCoverage, Unwatched
from nativeleak.recording import Recording, RecordingWriter, open_recording, opening


def test_open_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        open_recording(tmp_path / "none.nlk")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"SQLite format 3\0 but not really"])
def test_open_file_of_another_kind_is_an_error_with_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nlk").write_bytes(content)
    with pytest.raises(RecordingError, match=r"not a nativeleak recording|damaged") as raised:
        open_recording(tmp_path / "a.nlk")
    assert raised.value.remedy


def test_open_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="it is a folder"):
        open_recording(tmp_path)


def test_open_database_of_another_program_is_an_error(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.nlk") as db:
        db.execute("CREATE TABLE trace (name, value)")
    with pytest.raises(RecordingError, match="a SQLite file of another program"):
        open_recording(tmp_path / "a.nlk")


def test_open_newer_format_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
        db.execute("UPDATE trace SET value = '3.1.4' WHERE name = 'version'")
    with pytest.raises(RecordingError, match=r"nativeleak 3\.1\.4 wrote it in format 2"):
        open_recording(path)


def _content(recording: Recording) -> tuple[object, ...]:
    stacks = [recording.stack(site.key.stack_key) for site in recording.sites]
    facts = (recording.info, recording.targets, recording.threads, recording.snapshots, recording.events)
    return (
        *facts,
        recording.end_reason,
        recording.sites,
        recording.retired,
        recording.unmapped,
        stacks,
        list(recording.samples()),
    )


def test_open_overwritten_stretch_is_an_error_or_was_unused_space(tmp_path: Path) -> None:
    """Random bytes over 200 bytes anywhere: never another report without an error."""
    whole = fixtures.write_gateway(tmp_path / "a.nlk").read_bytes()
    with Recording.from_bytes(whole) as recording:
        content = _content(recording)
    chance = random.Random(1860)
    n_found = 0
    for _ in range(300):
        damaged = bytearray(whole)
        start = chance.randrange(100, len(whole) - 200)
        damaged[start : start + 200] = chance.randbytes(200)
        try:
            with Recording.from_bytes(bytes(damaged)) as recording:
                assert _content(recording) == content
        except RecordingError:
            n_found += 1
    assert n_found > 0


def test_open_recording_from_before_callers_of_munmap_has_none(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE unmapped")
    with open_recording(path) as recording:
        assert recording.unmapped is None
        assert len(recording.sites) == 8


def test_open_recording_from_before_runtimes_had_a_table_knows_the_jvm(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    with open_recording(path) as recording:
        targets = recording.targets
    assert targets[0].runtime == RuntimeInfo("hotspot", "17.0.21")
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE runtimes")
    with open_recording(path) as recording:
        assert recording.targets == targets


def test_open_recording_has_unwatched_allocators_and_children(tmp_path: Path) -> None:
    path = tmp_path / "a.nlk"
    unwatched = (Unwatched("app", "jemalloc", "", "stripped"), Unwatched("libx.so", "", "acme_*_v2", "unknown"))
    few, many = Child(11, "postgres: writer", 1009, -3, False, False), Child(7, "nginx", 1 << 40, 1013)
    target = replace(fixtures.target(), unwatched=unwatched, children=(few,))
    with RecordingWriter(path, fixtures.trace_info(), targets=[target]) as writer:
        writer.finish("duration", 1.0, [replace(target, children=(few, many))])
    with open_recording(path) as recording:
        assert recording.targets[0].unwatched == unwatched
        assert recording.targets[0].children == (many, few)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE unwatched")
        db.execute("DROP TABLE children")
    with open_recording(path) as recording:
        assert recording.targets[0] == replace(target, unwatched=(), children=())


def test_open_recording_of_a_runtime_that_is_unknown_here_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.nlk"
    runtime = RuntimeInfo("made-up", "1009")
    with RecordingWriter(path, fixtures.trace_info(), targets=[fixtures.target(runtime=runtime)]) as writer:
        writer.finish("duration", 1.0)
    with open_recording(path) as recording:
        assert recording.targets[0].runtime == runtime
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT jvm_version FROM targets").fetchall() == [(None,)]


@pytest.mark.parametrize("backend", ["bpf-bcc", "pmap"])
def test_open_recording_from_before_coverage_derives_it_from_the_backend(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "old.nlk"
    fixtures.record(path, lambda _: None, backend=backend).close()
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("DELETE FROM trace WHERE name = 'coverage'").rowcount == 1
    with open_recording(path) as recording:
        assert recording.info.coverage == coverage_of(backend)


def test_open_recording_with_a_coverage_of_its_own_keeps_it(tmp_path: Path) -> None:
    coverage = Coverage(StackCoverage.SOME, has_threads=False, not_available="something", hits="looks")
    with fixtures.record(tmp_path / "new.nlk", lambda _: None, backend="pmap", coverage=coverage) as recording:
        assert recording.info.coverage == coverage


def test_open_cut_short_is_an_error(tmp_path: Path) -> None:
    whole = fixtures.write_gateway(tmp_path / "a.nlk").read_bytes()
    with pytest.raises(RecordingError, match="damaged"):
        Recording.from_bytes(whole[: len(whole) // 2])


def test_open_deleted_file_by_descriptor_is_read(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        path.unlink()
        with open_recording(Path(f"/proc/self/fd/{descriptor}")) as recording:
            assert len(recording.snapshots) == 12
    finally:
        os.close(descriptor)


def test_open_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    before = path.read_bytes()
    path.chmod(0o400)
    with open_recording(path) as recording:
        list(recording.samples())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nlk"]


def test_open_recording_without_its_mark_has_no_end_reason(tmp_path: Path) -> None:
    path = fixtures.write_gateway(tmp_path / "a.nlk")
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM trace WHERE name = 'end_reason'")
    with open_recording(path) as recording:
        assert recording.end_reason is None


_ENDLESS = """
import sys
from pathlib import Path
import recording_fixtures as fixtures
from nativeleak.model import Stack
from nativeleak.recording import RecordingWriter

writer = RecordingWriter(Path(sys.argv[1]), fixtures.trace_info())
print("ready", flush=True)
n = 0
while True:
    n += 1
    writer.add_stacks([Stack(n, (fixtures.native("malloc"), fixtures.native(f"f{n}", "app", n)))])
    sites = [fixtures.heap_site(1, key, (key * n, n), ((key * n) // 2, n // 2)) for key in range(max(1, n - 40), n + 1)]
    writer.write_snapshot(fixtures.snapshot(float(n), sites, threads=fixtures.THREADS))
"""


def _killed_recording(path: Path, delay_s: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(fixtures.__file__).parent)},
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    with writer, writer.stdout:
        writer.stdout.readline()
        time.sleep(delay_s)  # the moment of the kill is what varies, nothing is waited for
        writer.send_signal(signal.SIGKILL)


def _assert_sums_hold(recording: Recording) -> None:
    n_last = len(recording.snapshots)
    assert [snapshot.elapsed_s for snapshot in recording.snapshots] == [float(n + 1) for n in range(n_last)]
    assert len(list(recording.samples())) == n_last
    assert len(recording.sites) == n_last
    for site in recording.sites:
        n = min(n_last, site.key.stack_key + 40)
        assert (site.allocated_bytes, site.allocated_count) == (site.key.stack_key * n, n)
        assert recording.series(site.key)[-1][1:] == (site.outstanding_bytes, site.outstanding_count)
        stack = recording.stack(site.key.stack_key)
        assert stack is not None
        assert stack.frames[1].function == f"f{site.key.stack_key}"


def test_writer_killed_at_any_moment_leaves_a_file_that_opens(tmp_path: Path) -> None:
    chance = random.Random(5687)
    n_hot = 0
    for attempt in range(50):
        path = tmp_path / f"{attempt}.nlk"
        _killed_recording(path, chance.uniform(0.0, 0.12))
        n_hot += path.with_name(path.name + "-journal").exists()
        with open_recording(path) as recording:
            _assert_sums_hold(recording)
    assert n_hot, "no kill fell into a commit: the test does not test what it should"


@pytest.fixture
def hot_recording(tmp_path: Path) -> Path:
    """A recording of one snapshot whose second was cut off after its pages had reached the file."""
    path = fixtures.write_gateway(tmp_path / "whole.nlk", n_snapshots=1)
    folder = tmp_path / "hot"
    folder.mkdir()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.executemany("INSERT INTO events VALUES (?, 2.0, 'x', ?)", ((n, "y" * 999) for n in range(99)))
    db.execute("UPDATE sites SET allocated_bytes = 4711")
    for suffix in ("", "-journal"):
        shutil.copyfile(f"{path}{suffix}", folder / f"hot.nlk{suffix}")
    db.close()
    return folder / "hot.nlk"


def test_open_hot_journal_is_rolled_back(hot_recording: Path) -> None:
    with open_recording(hot_recording) as recording:
        assert recording.sites == fixtures.gateway_sites(0)
        assert recording.events == ()


def test_open_hot_journal_in_a_folder_that_cannot_be_written_uses_a_copy(
    hot_recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hot_recording.read_bytes()
    monkeypatch.setattr(opening, "_uri", lambda path, _mode: f"file:{path}?mode=ro")
    with open_recording(hot_recording) as recording:
        assert recording.sites == fixtures.gateway_sites(0)
    assert hot_recording.read_bytes() == before
