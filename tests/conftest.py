"""Fixtures and rules for all tests: a skip is a failure where NATIVELEAK_REQUIRE=all."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from support import is_everything_required, require_program, require_root

# An example takes as long as a busy machine makes it take.
settings.register_profile("nativeleak", deadline=None)
settings.load_profile("nativeleak")


RCU_EXPEDITED = Path("/sys/kernel/rcu_expedited")
"""With 1 in it the kernel hurries through grace periods. The end of a trace waits for thirty of them, one after the
other: it takes 0.8 s less then (median of 8, Linux 6.18)."""

SIDE_BY_SIDE = frozenset(
    [
        "affixed_allocators",
        "allocators",
        "battery",
        "bcc",
        "containers",
        "engine_choice",
        "errors",
        "exact_calls",
        "exact_completeness",
        "exact_jvm",
        "exact_losses",
        "exact_property",
        "exact_stress",
        "exits_truth",
        "fentry",
        "files",
        "growing_recording",
        "hostile",
        "java_degraded",
        "java_depth",
        "java_hostile",
        "java_mappings",
        "java_servers",
        "java_truth",
        "jvm",
        "lacks",
        "live_set",
        "placement",
        "planted",
        "pmap_engine",
        "report",
        "strace_engine",
        "streams",
        "tail_calls",
        "threads",
        "throwing_new",
        "two_tracers",
        "unmaps",
        "unwind_depth",
        "unwind_programs",
        "unwind_servers",
        "unwind_truth",
    ]
)
"""Integration tests that may run two at once: they compare what a program did with what was recorded, whatever it took,
and leave the machine's lists of probes to others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real processes look at them as root, and some may run two at once: mark them so."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in ("integration", "side_by_side"):
            item.add_marker(pytest.mark.root)
        if folder == "side_by_side" or (folder == "integration" and item.path.stem[5:] in SIDE_BY_SIDE):
            item.add_marker(pytest.mark.side_by_side)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure that carries its reason; an expected failure stays what it is."""
    report = yield
    if report.skipped and is_everything_required() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"required, not skipped: {reason}"
    return report


def pytest_configure(config: pytest.Config) -> None:
    """What one process does for all: not those of pytest-xdist, which report to this one."""
    if hasattr(config, "workerinput"):
        return
    path = os.environ.get("NATIVELEAK_TEST_FAILED")
    if path:
        config.pluginmanager.register(FailedTests(Path(path)))
    # Where it is set already, another run or somebody else takes it back.
    if os.access(RCU_EXPEDITED, os.W_OK) and RCU_EXPEDITED.read_text().strip() == "0":
        RCU_EXPEDITED.write_text("1")
        config.add_cleanup(lambda: RCU_EXPEDITED.write_text("0"))


class FailedTests:
    """Writes the node id of each test that fails into a file, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a test."""
        if report.failed:
            with self._path.open("a") as file:
                file.write(f"{report.nodeid}\n")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, with the reason."""
    if item.get_closest_marker("root"):
        require_root()
    if item.get_closest_marker("jvm"):
        require_program("java", "javac")
