"""What costs too much to be traced more than once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nativeleak.process.kernel_log import count_leaked_uprobes
from stacks import read_snapshot_count
from support import TRACEFS, Report, Target, Trace, Truth, eventually


@dataclass(frozen=True, slots=True)
class Million:
    """A trace of a million outstanding allocations, 100 sites in 20 threads, with a snapshot every half second.

    Attributes:
        truth: When all of them were outstanding, which they stayed to the end.
        full_snapshots: Id of the first snapshot that was made after that; the last one, made at the end, is another.
    """

    truth: Truth
    report: Report
    everything: Report
    recording: Path
    full_snapshots: int


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Million:
    recording = tmp_path_factory.mktemp("million") / "million.nlk"
    with (
        Target("million", 20, 5, 1000003) as target,
        Trace(target, options=["--interval", "0.5s"], output=recording) as trace,
    ):
        truth = target.go()
        n_before = read_snapshot_count(recording)
        eventually(lambda: read_snapshot_count(recording) >= n_before + 6, "six more snapshots")
        report = trace.stop()
        everything = trace.all_sites()
    return Million(truth, report, everything, recording, n_before + 2)


@pytest.fixture(params=sorted(TRACEFS))
def tracefs_state(request: pytest.FixtureRequest) -> str:
    """A key of ``TRACEFS``: the test runs with tracefs mounted and without, whatever this machine has."""
    state: str = request.param
    return state


@pytest.fixture
def no_probe_leaks() -> Iterator[None]:
    """The test leaves no probe that the kernel cannot remove: its place would be taken until the machine restarts."""
    before = count_leaked_uprobes() or 0
    yield
    assert (count_leaked_uprobes() or 0) <= before
