"""The look for holders after a trace: whatever becomes of it, the recording says so."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from nativeleak.cli import after_trace
from nativeleak.cli.after_trace import look_for_holders
from nativeleak.cli.looks import EarlyEnd, look
from nativeleak.cli.progress import LineProgress
from nativeleak.engines.options import Budget, TraceOptions
from nativeleak.model import Look, TargetEnd
from nativeleak.recording import open_recording
from nativeleak.recording.fates import add_look
from nativeleak.session.session import Recorded
from recording_fixtures import write_gateway


def _why_not(path: Path, max_memory_bytes: int = 0) -> str:
    options = TraceOptions((os.getpid(),), path, budget=Budget(max_memory_bytes=max_memory_bytes))
    look_for_holders(Recorded(path), options, 1.0, LineProgress())
    with open_recording(path) as recording:
        (look,) = recording.looks
        return look.why_not


def test_a_recording_without_addresses_is_not_looked_at(tmp_path: Path) -> None:
    assert _why_not(write_gateway(tmp_path / "x.nlk", 3)) == "no addresses of blocks were recorded"


def test_too_little_memory_is_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = "a look takes at least 80 MiB, more than --max-memory 64 MiB"
    assert _why_not(write_gateway(tmp_path / "x.nlk", 3), 64 << 20) == why
    assert capsys.readouterr().err == f"nativeleak: no holders: {why}\n"


def test_a_recording_that_cannot_be_read_ends_in_a_line_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.nlk"
    path.write_bytes(b"no recording")
    look_for_holders(Recorded(path), TraceOptions((os.getpid(),), path), 1.0, LineProgress())
    assert "no holders: the look failed: reading " in capsys.readouterr().err


def test_a_recording_in_memory_is_not_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gateway(tmp_path / "x.nlk", 3, TargetEnd.EXITED)
    options = TraceOptions((os.getpid(),), path)
    look_for_holders(Recorded(path, path.read_bytes()), options, 1.0, LineProgress())
    assert capsys.readouterr().err == "nativeleak: no holders: the recording is in memory only\n"
    with open_recording(path) as recording:
        assert recording.looks == ()


def test_processes_that_were_looked_at_before_the_look_ended_keep_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gateway(tmp_path / "x.nlk", 3)
    known = Look(0, 1.5, "proven")

    def cut_short(*_: object) -> tuple[bytes, str]:
        add_look(path, known)
        return b"", "the look took longer than 1s"

    monkeypatch.setattr(after_trace, "look", cut_short)
    look_for_holders(Recorded(path), TraceOptions((1, 2), path), 1.0, LineProgress())
    with open_recording(path) as recording:
        assert recording.looks == (known, Look(1, 0.0, why_not="the look took longer than 1s"))


def test_a_look_that_does_not_end_when_asked_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nativeleak.cli.looks._END_S", 0.2)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    monkeypatch.setattr("nativeleak.children.python_module", lambda *_: [sys.executable, "-I", "-c", code])
    assert look("deaf", [], 0.5, 0) == (b"", "the look took longer than 0.5s")


def test_after_the_first_signal_nothing_more_is_looked_at() -> None:
    with EarlyEnd() as early:
        os.kill(os.getpid(), signal.SIGINT)
        assert early.is_asked
        _, why = look("nativeleak.heaps.in_use", [str(os.getpid())], 60.0, 0, early)
    assert why == "the look was ended early, by Ctrl-C or another signal"
