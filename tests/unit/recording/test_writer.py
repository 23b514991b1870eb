"""The writer: what is refused, what is written, and what happens when the file can no longer be written."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recording_fixtures as fixtures
from nativeleak.errors import RecordingError
from nativeleak.model import Kind, Owner, SiteKey, SiteTotals, Stack, TargetEnd, ThreadInfo, UnmapTotals
from nativeleak.recording import Event, Recording, RecordingWriter, open_recording
from nativeleak.recording.batch import Batch, Row


def test_writer_new_file_is_private(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()):
        assert stat.S_IMODE((tmp_path / "a.nlk").stat().st_mode) == 0o600


def test_writer_file_appears_with_its_content_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill at no moment leaves a file that cannot be read."""
    path, sync = tmp_path / "a.nlk", os.fsync
    there: list[bool] = []

    def check(fd: int) -> None:
        sync(fd)
        there.append(path.exists())

    monkeypatch.setattr(os, "fsync", check)
    with RecordingWriter(path, fixtures.trace_info(), targets=[fixtures.target()]):
        assert there == [False]
        with open_recording(path) as recording:
            assert recording.targets == (fixtures.target(),)
            assert recording.snapshots == ()
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR])
def test_writer_on_a_file_system_without_nameless_files_writes_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS, or overlayfs before Linux 6.1."""
    path, open_file = tmp_path / "a.nlk", os.open

    def refuse(name: str | Path, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return open_file(name, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    with RecordingWriter(path, fixtures.trace_info(), targets=[fixtures.target()]), open_recording(path) as recording:
        assert recording.targets == (fixtures.target(),)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_writer_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.nlk"
    path.write_text("precious")
    with pytest.raises(RecordingError, match=r"the file exists") as raised:
        RecordingWriter(path, fixtures.trace_info())
    assert "--force" in raised.value.remedy
    assert path.read_text() == "precious"


def test_writer_overwrite_replaces_file_and_old_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.nlk"
    path.write_text("old")
    (tmp_path / "a.nlk-journal").write_text("would be rolled into the new file")
    fixtures_path = _written(path, overwrite=True)
    with open_recording(fixtures_path) as recording:
        assert len(recording.snapshots) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_writer_symbolic_link_is_refused(tmp_path: Path, overwrite: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "a.nlk").symlink_to(victim)
    with pytest.raises(RecordingError, match="symbolic link"):
        RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info(), overwrite=overwrite)
    assert victim.read_text() == "precious"


def test_writer_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file or directory"):
        RecordingWriter(tmp_path / "none" / "a.nlk", fixtures.trace_info())


def test_writer_round_trip_keeps_everything(tmp_path: Path) -> None:
    info = fixtures.trace_info(options={"interval": "10s"}, slice_s=60.0)
    stack = Stack(2**64 - 3, (fixtures.native("malloc"), fixtures.java("a.B.c", line=7)), truncated=True, end="depth")
    site = fixtures.heap_site(1, stack.key, (4096, 4), (1024, 1), slices=((2**40, 2), (5, 1)), oldest_s=2.0)
    with RecordingWriter(tmp_path / "a.nlk", info) as writer:
        writer.add_stacks([stack])
        writer.add_event(0.5, "probes", "probes attached to libfoo.so")
        writer.write_snapshot(fixtures.snapshot(3.0, [site], threads=fixtures.THREADS))
        writer.finish("duration", 3.5, [fixtures.target(end=TargetEnd.OOM_KILLED, end_signal=9)])
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.info == info
        assert recording.sites == (site,)
        assert recording.stack(stack.key) == stack
        assert recording.stack(4711) is None
        assert recording.threads == {thread.uid: thread for thread in fixtures.THREADS}
        assert recording.targets == (fixtures.target(end=TargetEnd.OOM_KILLED, end_signal=9),)
        assert recording.events == (Event(0.5, "probes", "probes attached to libfoo.so"),)
        assert recording.end_reason == "duration"
        assert recording.snapshots[0].counters == fixtures.counters(resolved_frames=12)


def test_writer_unchanged_site_gets_no_second_sample_and_ages(tmp_path: Path) -> None:
    still = fixtures.heap_site(1, 12, (100, 1), oldest_s=1.0)
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        for second in range(1, 5):
            moving = fixtures.heap_site(1, 11, (7 * second, second))
            writer.write_snapshot(fixtures.snapshot(float(second), [still, moving]))
    with open_recording(tmp_path / "a.nlk") as recording:
        assert [samples.site_id.tolist() for samples in recording.samples()] == [[0, 1], [1], [1], [1]]
        assert recording.sites[0].oldest_s == 4.0
        assert recording.series(still.key) == [(1.0, 100, 1), (2.0, 100, 1), (3.0, 100, 1), (4.0, 100, 1)]
        assert recording.series(moving.key) == [(1.0, 7, 1), (2.0, 14, 2), (3.0, 21, 3), (4.0, 28, 4)]


def test_writer_same_frame_in_many_stacks_is_stored_once(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.add_stacks(Stack(key, (fixtures.native("malloc"), fixtures.native("main", "app"))) for key in range(97))
        writer.flush()
        writer.add_stacks([Stack(200, (fixtures.native("malloc"),))])
    with sqlite3.connect(tmp_path / "a.nlk") as db:
        assert db.execute("SELECT count(*) FROM frames").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM stacks").fetchone() == (98,)


def test_writer_many_stacks_do_not_wait_for_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "a.nlk"
    with RecordingWriter(path, fixtures.trace_info()) as writer:
        for key in range(1, 1010):
            writer.add_stacks([Stack(key, (fixtures.native("malloc"), fixtures.native("main", "app")))])
        with sqlite3.connect(path) as db:
            assert db.execute("SELECT count(*) FROM stacks").fetchone() == (512,)


def test_writer_stack_named_anew_replaces_the_old_names(tmp_path: Path) -> None:
    better = Stack(5, (fixtures.native("malloc"), fixtures.native("better", "app")))
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.add_stacks([Stack(5, (fixtures.native("malloc"),))])
        writer.flush()
        writer.add_stacks([better])
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.stack(5) == better


@pytest.mark.parametrize("late", [0, 1])
def test_writer_retired_site_is_not_counted_twice(tmp_path: Path, late: int) -> None:
    """Whether the site is missing in the snapshot in which the retired sum grows, or in the one after."""
    site = fixtures.heap_site(2, 11, (700, 7), (600, 6))
    freed = fixtures.heap_site(2, 11, (700, 7), (700, 7), oldest_s=None)
    sum_of_retired = (SiteTotals(SiteKey(Kind.HEAP, 0, 0, 0), 700, 7, 700, 7),)
    dead = (ThreadInfo(2, 0, 1860, "worker", alive=False),)
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, [site], threads=fixtures.THREADS))
        sites = [freed] if late else []
        writer.write_snapshot(fixtures.snapshot(2.0, sites, retired=sum_of_retired, threads=dead))
        writer.write_snapshot(fixtures.snapshot(3.0, [], retired=sum_of_retired))
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.sites[0].allocated_bytes == 0
        assert recording.retired == sum_of_retired
        assert recording.series(site.key)[-1] == (3.0, 0, 0)


def test_writer_missing_site_of_a_living_thread_keeps_its_totals(tmp_path: Path) -> None:
    site = fixtures.heap_site(1, 11, (700, 7), (700, 7), oldest_s=None)
    grown = (SiteTotals(SiteKey(Kind.HEAP, 0, 0, 0), 5, 1, 5, 1),)
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, [site], threads=fixtures.THREADS))
        writer.write_snapshot(fixtures.snapshot(2.0, [], retired=grown))
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.sites == (site,)


def test_writer_name_that_is_no_utf8_is_stored(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, [], threads=(ThreadInfo(1, 0, 7, name),)))
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.threads[1].name == "caf\\udce9"


def test_writer_totals_beyond_64_bits_keep_what_is_outstanding(tmp_path: Path) -> None:
    """What a target comes to that maps and unmaps 64 TiB, a hundred thousand times a second."""
    key = SiteKey(Kind.MAP, 0, 1, 7)
    site = SiteTotals(key, (1 << 66) + 4096, 1, 1 << 66, 0)
    path = tmp_path / "trace.nlk"
    with RecordingWriter(path, fixtures.trace_info()) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, [site]))
        assert writer.failed is None
    with open_recording(path) as recording:
        (stored,) = recording.sites
    assert stored.outstanding_bytes == 4096
    assert stored.allocated_bytes == 1 << 62


def test_writer_keeps_the_latest_of_who_gave_back(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, [], unmapped=fixtures.gateway_unmapped(0)[:3]))
        writer.write_snapshot(fixtures.snapshot(2.0, [], unmapped=fixtures.gateway_unmapped(6)))
        writer.write_snapshot(fixtures.snapshot(3.0, [], unmapped=fixtures.gateway_unmapped(6)))
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.unmapped == fixtures.gateway_unmapped(6)


def test_writer_who_gave_back_beyond_64_bits_is_stored(tmp_path: Path) -> None:
    row = UnmapTotals(0, 0, 1, (1 << 64) - 1, Owner.RUNTIME, ("munmap",), 3, 1 << 66, 1 << 65, 1 << 66, 1 << 66)
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, [], unmapped=(row,)))
        assert writer.failed is None
    with open_recording(tmp_path / "a.nlk") as recording:
        most = 1 << 62
        assert recording.unmapped == (UnmapTotals(0, 0, 1, row.stack_key, Owner.RUNTIME, ("munmap",), 3, *[most] * 4),)


def test_writer_interrupted_commit_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(batch: Batch) -> Iterator[tuple[str, list[Row]]]:
        yield next(statements(batch))
        raise KeyboardInterrupt

    statements = Batch.statements
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        monkeypatch.setattr(Batch, "statements", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.write_snapshot(fixtures.snapshot(1.0, [fixtures.heap_site(1, 11, (5, 1))]))
        monkeypatch.undo()
        writer.write_snapshot(fixtures.snapshot(2.0, [fixtures.heap_site(1, 11, (7, 1))]))
        assert writer.failed is None
    with open_recording(tmp_path / "a.nlk") as recording:
        assert recording.series(recording.sites[0].key) == [(2.0, 7, 1)]


def test_writer_file_is_complete_without_journal_after_each_snapshot(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info()) as writer:
        for second in (1, 2, 3):
            writer.write_snapshot(fixtures.snapshot(float(second), [fixtures.heap_site(1, 11, (second, 1))]))
            assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.nlk"]
            with Recording.from_bytes((tmp_path / "a.nlk").read_bytes()) as recording:
                assert recording.sites[0].outstanding_bytes == second


_FILL = """
import resource, sys
from pathlib import Path
import recording_fixtures as fixtures
from nativeleak.model import Stack
from nativeleak.recording import Recording, RecordingWriter, open_recording

path, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
writer = RecordingWriter(path, fixtures.trace_info())
for second in range(1, 41):
    writer.add_stacks(Stack(100 * second + i, (fixtures.native(f"f{second}_{i}" * 20),)) for i in range(20))
    sites = [fixtures.heap_site(1, 100 * second + i, (second, 1)) for i in range(20)]
    writer.write_snapshot(fixtures.snapshot(float(second), sites))
writer.finish("duration", 40.0)
assert writer.failed is not None, "the limit was not met"
live = Recording.from_bytes(writer.serialize())
writer.close()
assert live.recording_error == writer.failed
assert len(live.snapshots) == 40
assert len(live.sites) == 800
assert live.end_reason == "duration"
assert live.stack(101).frames[0].function == "f1_1" * 20
assert live.stack(4019).frames[0].function == "f40_19" * 20
with open_recording(path) as kept:
    n_kept = len(kept.snapshots)
    assert 0 < n_kept < 40
    assert len(kept.sites) == 20 * n_kept
    assert kept.stack(100 * n_kept).frames
print(writer.failed)
"""


def _fill(path: Path, limit: int) -> str:
    tests = Path(fixtures.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(path), str(limit)],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_writer_file_size_limit_goes_on_in_memory(tmp_path: Path) -> None:
    assert "a.nlk failed" in _fill(tmp_path / "a.nlk", 120_000)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_writer_disk_full_goes_on_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        assert "full" in _fill(folder / "a.nlk", 0)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_writer_file_that_cannot_be_read_either_starts_anew_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordingWriter(tmp_path / "a.nlk", fixtures.trace_info())
    first = fixtures.heap_site(1, 11, (100, 1))
    given = fixtures.gateway_unmapped(0)
    writer.write_snapshot(fixtures.snapshot(1.0, [first], threads=fixtures.THREADS, unmapped=given))
    writer._db.close()  # every later statement on it fails, the backup too
    second = fixtures.heap_site(1, 12, (7, 1))
    writer.write_snapshot(fixtures.snapshot(2.0, [first, second], unmapped=given))
    with Recording.from_bytes(writer.serialize()) as recording:
        assert [site.outstanding_bytes for site in recording.sites] == [100, 7]
        assert recording.series(first.key) == [(2.0, 100, 1)]
        assert recording.targets == (fixtures.target(),)
        assert recording.unmapped == given
        assert len(recording.threads) == 3
    assert writer.failed is not None
    writer.close()


def _written(path: Path, *, overwrite: bool = False) -> Path:
    with RecordingWriter(path, fixtures.trace_info(), overwrite=overwrite) as writer:
        writer.write_snapshot(fixtures.snapshot(1.0, []))
    return path
