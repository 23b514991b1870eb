"""The look for holders after a trace: whatever becomes of it, the recording says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.cli.after_trace import look_for_holders
from nativeleak.cli.progress import LineProgress
from nativeleak.engines.options import Budget, TraceOptions
from nativeleak.model import TargetEnd
from nativeleak.recording import open_recording
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
