"""Fixtures and rules for all tests: a skip is a failure where NATIVELEAK_REQUIRE=all."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from support import is_everything_required, require_program, require_root

# An example takes as long as a busy machine makes it take.
settings.register_profile("nativeleak", deadline=None)
settings.load_profile("nativeleak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real processes look at them as root: mark them so."""
    folders = {Path(__file__).parent / name for name in ("integration", "side_by_side")}
    for item in items:
        if not folders.isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.root)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure that carries its reason; an expected failure stays what it is."""
    report = yield
    if report.skipped and is_everything_required() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"required, not skipped: {reason}"
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, with the reason."""
    if item.get_closest_marker("root"):
        require_root()
    if item.get_closest_marker("jvm"):
        require_program("java", "javac")
