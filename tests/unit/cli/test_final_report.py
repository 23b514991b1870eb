"""The report at the end of a trace, in its real process: inside ``--max-memory``, or said why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativeleak.cli.final_report import ReportOptions, report_on
from nativeleak.engines.options import Budget, TraceOptions
from nativeleak.errors import NativeleakError
from nativeleak.model import Stack
from nativeleak.recording import RecordingWriter
from nativeleak.session.session import Recorded
from recording_fixtures import heap_site, native, snapshot, target, trace_info, write_gateway

N_SITES = 8000
WANTED = ReportOptions("text", None, None)


def report_within(path: Path, bound_mib: int) -> int:
    options = TraceOptions((), path, budget=Budget(max_memory_bytes=bound_mib << 20))
    return report_on(Recorded(path), options, WANTED)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of which a report takes some 150 MiB."""
    path = tmp_path_factory.mktemp("large") / "large.nlk"
    frames = [tuple(native(f"f{k}", offset=64 * site + k) for k in range(20)) for site in range(N_SITES)]
    with RecordingWriter(path, trace_info(), targets=[target()]) as writer:
        writer.add_stacks([Stack(site + 1, each) for site, each in enumerate(frames)])
        for second in (1, 2, 3):
            writer.write_snapshot(snapshot(second, [heap_site(1, site + 1, (1009, 1)) for site in range(N_SITES)]))
        writer.finish("duration", 3.0)
    return path


def test_report_that_fits_into_the_bound_is_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert report_within(write_gateway(tmp_path / "x.nlk"), 120) == 0
    assert "java (PID 5687)" in capfd.readouterr().out


def test_report_without_a_bound_takes_what_it_needs(large: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert report_within(large, 0) == 0
    assert "java (PID 5687)" in capfd.readouterr().out


@pytest.mark.parametrize("bound_mib", [84, 92, 100])
def test_report_that_needs_more_than_the_bound_names_it_and_what_to_do(
    large: Path, bound_mib: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert report_within(large, bound_mib) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("nativeleak: ")
    assert lines[0].endswith(f" failed: out of memory: this process may have {bound_mib} MiB (RLIMIT_DATA)")
    assert lines[1].startswith("  raise the limit: --max-memory of the trace, or ")
    assert lines[2].startswith("  or make the report ")
    assert "elsewhere: nativeleak report " in lines[2]


def test_bound_below_the_least_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    path = write_gateway(tmp_path / "x.nlk")
    with pytest.raises(NativeleakError, match="takes at least 80 MiB, more than --max-memory 64 MiB") as caught:
        report_within(path, 64)
    assert caught.value.exit_status == 1
    assert caught.value.remedy.endswith(f"here or elsewhere: nativeleak report {path}")
