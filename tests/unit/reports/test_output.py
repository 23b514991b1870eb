"""Where a report is written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativeleak.errors import NativeleakError
from nativeleak.reports.output import write_file


def test_write_file_refuses_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(NativeleakError, match="symbolic link"):
        write_file(tmp_path / "out", "text")
    assert (tmp_path / "victim").read_text() == "precious"


def test_write_file_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NativeleakError, match="No such file or directory"):
        write_file(tmp_path / "none" / "out", "text")
