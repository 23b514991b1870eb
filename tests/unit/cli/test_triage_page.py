"""Options of triage about its page, before any process is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from nativeleak.cli.triage import triage_command
from nativeleak.errors import UsageError


def _run(*arguments: str) -> None:
    CliRunner().invoke(triage_command, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--redact"], "--redact is for --format html"),
        (["--open", "--format", "json"], "--open is for --format html"),
        (["--open", "--format", "html"], "--open needs a file"),
    ],
)
def test_triage_options_of_the_page_are_refused_where_they_do_nothing(arguments: list[str], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        _run("-p", str(os.getpid()), *arguments)


def test_triage_page_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(UsageError, match="shows a process, not files"):
        _run("--input", str(tmp_path / "x"), "--format", "html")
