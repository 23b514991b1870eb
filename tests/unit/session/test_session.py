"""The loop of a trace against an engine made up for it: every way to begin, to go on and to end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativeleak.engines.options import Budget, TraceOptions
from nativeleak.errors import CannotTraceError, NativeleakError, NoTargetError, RecordingError
from nativeleak.model import MemoryLine, TargetEnd
from nativeleak.recording import Recording, open_recording
from nativeleak.session.session import Session
from session_engine import BLOCK_BYTES, MadeUpEngine, Said, sleepers, spec_of

TESTS = Path(__file__).parents[2]


@pytest.fixture
def engine() -> MadeUpEngine:
    return MadeUpEngine()


def traced(engine: MadeUpEngine, path: Path, said: Said, n: int = 1, **facts: object) -> Recording:
    """Trace so many processes of our own to the end; the recording."""
    with sleepers(n) as processes:
        pids = tuple(process.pid for process in processes)
        recorded = Session(TraceOptions(pids, path, **facts), spec_of(engine), said).run()  # type: ignore[arg-type]
    assert recorded.path == path
    return open_recording(path) if recorded.content is None else Recording.from_bytes(recorded.content)


def test_duration_ends_it_with_a_snapshot_at_the_end(engine: MadeUpEngine, tmp_path: Path) -> None:
    said = Said()
    with traced(engine, tmp_path / "x.nlk", said, duration_s=0.5, interval_s=0.1) as recording:
        assert recording.end_reason == "duration"
        assert 1 <= len(recording.snapshots) <= 5
        assert recording.elapsed_s >= 0.5
        (site,) = recording.sites
        assert site.allocated_bytes == len(recording.snapshots) * BLOCK_BYTES
        assert recording.info.coverage == engine.coverage
        assert [frame.function for frame in recording.stack(7).frames] == ["imagine"]  # type: ignore[union-attr]
    assert engine.calls[:3] == ["open", "start", "work"]
    assert engine.calls[-3:] == ["stop", "last snapshot", "close"]
    assert said.n_ticks >= 1
    assert said.lines[0].endswith(f"for 0.5s: by imagination; recording to {tmp_path / 'x.nlk'}")


def test_snapshots_are_an_interval_apart_and_one_more_at_the_end(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.ends_after = 3
    with traced(engine, tmp_path / "x.nlk", Said(), interval_s=0.05) as recording:
        times = [snapshot.elapsed_s for snapshot in recording.snapshots]
        assert len(times) == 4
        assert [t >= 0.05 * i for i, t in enumerate(times[:3], start=1)] == [True] * 3
        assert recording.end_reason == "enough"


def test_signal_ends_it_and_the_handlers_of_before_are_back(engine: MadeUpEngine, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    said = Said(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with traced(engine, tmp_path / "x.nlk", said) as recording:
        assert (recording.end_reason, len(recording.snapshots)) == ("interrupted", 1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_of_one_of_two_targets_goes_on_that_of_both_ends_it(engine: MadeUpEngine, tmp_path: Path) -> None:
    with sleepers(2) as processes:

        def kill_next() -> None:
            n_gone = sum(info.end is not TargetEnd.RUNNING for info in engine.targets)
            if n_gone < 2:
                processes[n_gone].kill()
                processes[n_gone].wait()

        engine.on_work = kill_next
        pids = tuple(process.pid for process in processes)
        Session(TraceOptions(pids, tmp_path / "x.nlk"), spec_of(engine), Said()).run()
    with open_recording(tmp_path / "x.nlk") as recording:
        assert recording.end_reason == "target ended"
        assert [target.end for target in recording.targets] == [TargetEnd.EXITED, TargetEnd.EXITED]
    exits = [name for name in engine.calls if name.startswith("exited")]
    assert exits == ["exited 0", "exited 1"]
    assert "work" in engine.calls[engine.calls.index("exited 0") : engine.calls.index("exited 1")]


def test_engine_that_can_observe_no_longer_ends_it(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.on_work = lambda: setattr(engine, "ended", "the mind wandered")
    with traced(engine, tmp_path / "x.nlk", Said()) as recording:
        assert recording.end_reason == "the mind wandered"


@pytest.mark.parametrize("urgent", [True, False])
def test_readable_descriptor_of_the_engine_wakes_it_up_and_lets_it_rest_where_nothing_is_urgent(
    engine: MadeUpEngine, tmp_path: Path, urgent: bool
) -> None:
    read_fd, write_fd = os.pipe()
    engine.fds, engine.urgent = (read_fd,), urgent
    said = Said()
    try:
        os.write(write_fd, b"never read")
        traced(engine, tmp_path / "x.nlk", said, duration_s=1.0, interval_s=3600.0).close()
    finally:
        os.close(read_fd)
        os.close(write_fd)
    # It is readable all the time: without a rest that is once in some 20 us, with one each 50 ms at most.
    assert said.n_ticks > 40 if urgent else said.n_ticks <= 25


def failing(error: Exception) -> None:
    raise error


def test_start_that_fails_leaves_no_recording_and_the_engine_closed(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.on_start = lambda: failing(CannotTraceError("no imagination"))
    with pytest.raises(CannotTraceError, match="no imagination"):
        traced(engine, tmp_path / "x.nlk", Said())
    assert list(tmp_path.iterdir()) == []
    assert engine.calls == ["open", "start", "close"]


@pytest.mark.parametrize("where", ["open", "start"])
def test_start_that_fails_since_the_target_has_ended_says_so(engine: MadeUpEngine, tmp_path: Path, where: str) -> None:
    with sleepers() as (process,):

        def end_and_fail(*_: object) -> None:
            process.kill()
            process.wait()
            raise CannotTraceError("no allocator functions found")

        engine.on_start = end_and_fail
        spec = spec_of(engine, open=end_and_fail) if where == "open" else spec_of(engine)
        with pytest.raises(NoTargetError, match=f"PID {process.pid} failed: it ended before anything was recorded"):
            Session(TraceOptions((process.pid,), tmp_path / "x.nlk"), spec, Said()).run()
    assert list(tmp_path.iterdir()) == []


def test_target_that_is_none_is_refused_before_the_engine_is_opened(engine: MadeUpEngine, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    with pytest.raises(NoTargetError, match="no such process"):
        Session(TraceOptions((gone.pid,), tmp_path / "x.nlk"), spec_of(engine), Said()).run()
    assert engine.calls == []


def test_recording_that_exists_is_refused_and_stays(engine: MadeUpEngine, tmp_path: Path) -> None:
    (tmp_path / "x.nlk").write_text("mine")
    with pytest.raises(RecordingError, match="the file exists"):
        traced(engine, tmp_path / "x.nlk", Said())
    assert (tmp_path / "x.nlk").read_text() == "mine"
    assert engine.calls == ["open", "close"]


def test_snapshot_that_fails_ends_it_and_keeps_those_before(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.on_snapshot = lambda: failing(NativeleakError("forgotten")) if engine.n_snapshots == 2 else None
    with pytest.raises(NativeleakError, match="forgotten"):
        traced(engine, tmp_path / "x.nlk", Said(), interval_s=0.05)
    assert engine.calls[-1] == "close"
    with open_recording(tmp_path / "x.nlk") as recording:
        assert (len(recording.snapshots), recording.end_reason) == (2, None)
        assert recording.sites[0].allocated_bytes == 2 * BLOCK_BYTES


def test_first_snapshot_that_fails_leaves_no_recording(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.on_snapshot = lambda: failing(NativeleakError("forgotten"))
    with pytest.raises(NativeleakError, match="forgotten"):
        traced(engine, tmp_path / "x.nlk", Said(), interval_s=0.05)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond; the kernel's SIGXFSZ is ignored, so that the write fails as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_is_told_once_and_all_of_it_is_recorded_in_memory(engine: MadeUpEngine, tmp_path: Path) -> None:
    path = tmp_path / "x.nlk"

    def fill() -> None:
        if engine.n_snapshots == 1 and not full:
            full.append(resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY)))

    full: list[None] = []
    engine.ends_after = 4
    engine.on_work = fill
    # Much new at each snapshot, so that the file has to grow.
    names = iter(range(1 << 30))
    engine.on_snapshot = lambda: [engine.sink.note("made-up", f"{next(names)}" * 997, is_shown=False) for _ in range(9)]
    said = Said()
    with files_of_at_most(1 << 30), traced(engine, path, said, interval_s=0.05) as recording:
        assert recording.end_reason == "enough"
        assert recording.name == "recording in memory"
        assert len(recording.snapshots) == engine.n_snapshots == 5
        assert recording.sites[0].allocated_bytes == engine.n_snapshots * BLOCK_BYTES
        assert f"writing {path} failed" in str(recording.recording_error)
    told = [line for line in said.lines if "tracing goes on in memory" in line]
    assert len(told) == 1
    assert told[0].startswith(f"recording to {path} failed: ")
    with open_recording(path) as left:
        assert len(left.snapshots) >= 1


def test_memory_near_the_bound_freezes_the_engine_once(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.memory, engine.ends_after = 96 << 20, 3
    facts = {"budget": Budget(max_memory_bytes=100 << 20), "interval_s": 0.05}
    said = Said()
    with traced(engine, tmp_path / "x.nlk", said, **facts) as recording:
        texts = [event.text for event in recording.events]
    assert texts == ["takes 96 MiB, near to --max-memory 100 MiB"]
    assert said.lines.count(texts[0]) == 1
    assert engine.calls.count("freeze") == 1


def test_memory_below_the_bound_freezes_nothing(engine: MadeUpEngine, tmp_path: Path) -> None:
    engine.memory, engine.ends_after = 94 << 20, 3
    facts = {"budget": Budget(max_memory_bytes=100 << 20), "interval_s": 0.05}
    traced(engine, tmp_path / "x.nlk", Said(), **facts).close()
    assert "freeze" not in engine.calls


def test_notes_are_recorded_and_shown_where_wanted(engine: MadeUpEngine, tmp_path: Path) -> None:
    def tell() -> None:
        engine.sink.note("made-up", "for all")
        engine.sink.note("made-up", "for the record", is_shown=False)

    engine.on_start = tell
    said = Said()
    with traced(engine, tmp_path / "x.nlk", said, duration_s=0.1) as recording:
        assert [event.text for event in recording.events] == ["for all", "for the record"]
    assert "for all" in said.lines
    assert "for the record" not in said.lines


def test_notice_and_warning_come_before_the_beginning(engine: MadeUpEngine, tmp_path: Path) -> None:
    spec, said = spec_of(engine, warning="it costs, for {duration}"), Said()
    with sleepers() as (process,):
        Session(TraceOptions((process.pid,), tmp_path / "x.nlk", 0.1), spec, said, "falling back").run()
    assert said.lines[:2] == ["falling back", "warning: it costs, for 0.1s"]
    assert said.lines[2].startswith("tracing PID ")


def test_second_signal_leaves_at_once_and_the_recording_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.nlk"
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(TESTS)!r}]
from pathlib import Path
from nativeleak.engines.options import TraceOptions
from nativeleak.session.session import Session
from session_engine import MadeUpEngine, Said, spec_of

class Stubborn(MadeUpEngine):
    def work(self):
        if self.n_snapshots == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super().work()

    def stop(self):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("still here")

options = TraceOptions((int(sys.argv[1]),), Path({str(path)!r}), interval_s=0.05)
Session(options, spec_of(Stubborn()), Said()).run()
"""
    with sleepers() as (process,):
        done = subprocess.run(
            [sys.executable, "-c", script, str(process.pid)], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    with open_recording(path) as recording:
        assert (len(recording.snapshots), recording.end_reason) == (2, None)


def test_window_begins_when_the_engine_has_started_and_ends_after_the_last_look_at_memory(
    engine: MadeUpEngine, tmp_path: Path
) -> None:
    """On a busy machine either takes seconds: growth would be told too steep, or of the wrong time."""
    started: list[float] = []
    looked_s: list[float] = []
    read = engine.memory_lines

    def memory_lines(slot: int) -> dict[MemoryLine, int]:
        lines = read(slot)
        looked_s.append(engine.elapsed_s)
        return lines

    engine.on_start = lambda: started.append(time.time())  # type: ignore[method-assign]
    engine.memory_lines = memory_lines  # type: ignore[method-assign]
    with traced(engine, tmp_path / "x.nlk", Said(), duration_s=0.2, interval_s=0.1) as recording:
        assert recording.info.started >= started[0] - 1e-4  # two clocks, and the rounding of one
        assert recording.elapsed_s >= looked_s[-1]
