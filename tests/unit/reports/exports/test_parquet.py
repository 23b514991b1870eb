"""The Parquet file: the table of the CSV format, with types.

NATIVELEAK_TEST_LONG=1 installs pyarrow into a folder of its own, writes a file and reads it back. It is not in .venv:
pandas would load it for every report, and no other test would measure what users have.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import Metric, Selection
from nativeleak.errors import UsageError
from nativeleak.recording import RecordingWriter, open_recording
from nativeleak.reports.build import build
from nativeleak.reports.exports import parquet
from rendering import render
from support import IS_LONG

MIB = fixtures.MIB
OUTSTANDING = 38 * 16 * MIB + 3 * MIB + 1009 + 192 * MIB + 132 * 1024


def test_table_is_that_of_csv_with_types(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        table = parquet.table(build(recording, Selection(Metric.ALLOCATED)))
        as_csv = pd.read_csv(io.StringIO(render(recording, "csv")))
    assert list(table.columns) == list(as_csv.columns)
    assert table["outstanding_bytes"].sum() == OUTSTANDING
    assert sorted(table["stack"]) == sorted(as_csv["stack"])
    assert {str(table[name].dtype) for name in ("pid", "resident_bytes", "n_stacks")} == {"Int64"}
    assert table["resident_bytes"].isna().sum() == as_csv["resident_bytes"].isna().sum() == 4
    assert table["truncated"].tolist() == [False] * len(table)


def test_no_site_is_an_empty_table(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.write_snapshot(fixtures.snapshot(1.0, ()))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        table = parquet.table(build(recording, Selection()))
    assert (len(table), str(table["outstanding_bytes"].dtype)) == (0, "Int64")


def test_missing_pyarrow_is_said_with_its_remedy(tmp_path: Path) -> None:
    with (
        open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording,
        pytest.raises(UsageError, match="pyarrow, which is not installed") as error,
    ):
        render(recording, "parquet")
    assert "pip install pyarrow" in error.value.remedy


if IS_LONG:

    def test_file_is_read_back(tmp_path: Path) -> None:
        folder, recording, out = tmp_path / "packages", tmp_path / "a.nlk", tmp_path / "a.parquet"
        install = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder), "pyarrow>=14"]
        subprocess.run(install, check=True, timeout=300)
        fixtures.write_gateway(recording)
        environment = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, "-m", "nativeleak", "report", str(recording), "--format", "parquet", "-o", str(out)]
        subprocess.run(command, check=True, timeout=120, env=environment)
        read = f"import pandas; print(pandas.read_parquet({str(out)!r})['outstanding_bytes'].sum())"
        found = subprocess.run(
            [sys.executable, "-c", read], check=True, timeout=120, env=environment, capture_output=True, text=True
        )
        assert int(found.stdout) == OUTSTANDING
