"""The Parquet file, read back by pandas: the table of the CSV format, with types."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pandas as pd
import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.select import Selection
from nativeleak.errors import UsageError
from nativeleak.recording import Recording, RecordingWriter, open_recording
from nativeleak.reports.formats import WriteOptions, find_format
from nativeleak.reports.render import write_report
from rendering import render

MIB = fixtures.MIB


def _parquet(recording: Recording) -> bytes:
    stream = io.BytesIO()
    write_report(recording, stream, find_format("parquet"), Selection(), WriteOptions())
    return stream.getvalue()


def test_table_is_that_of_csv_with_types(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording:
        table = pd.read_parquet(io.BytesIO(_parquet(recording)))
        as_csv = pd.read_csv(io.StringIO(render(recording, "csv")))
    assert list(table.columns) == list(as_csv.columns)
    assert table["outstanding_bytes"].sum() == 38 * 16 * MIB + 3 * MIB + 1009 + 192 * MIB + 132 * 1024
    assert table["stack"].tolist() == as_csv["stack"].tolist()
    assert {str(table[name].dtype) for name in ("pid", "resident_bytes", "n_stacks")} == {"Int64"}
    assert table["resident_bytes"].isna().tolist() == as_csv["resident_bytes"].isna().tolist()
    assert table["truncated"].tolist() == [False] * len(table)


def test_no_site_is_an_empty_table(tmp_path: Path) -> None:
    def write(writer: RecordingWriter) -> None:
        writer.write_snapshot(fixtures.snapshot(1.0, ()))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        table = pd.read_parquet(io.BytesIO(_parquet(recording)))
    assert (len(table), "outstanding_bytes" in table.columns) == (0, True)


def test_missing_pyarrow_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    with (
        open_recording(fixtures.write_gateway(tmp_path / "a.nlk")) as recording,
        pytest.raises(UsageError, match="pyarrow, which is not installed") as error,
    ):
        _parquet(recording)
    assert "nativeleak[parquet]" in error.value.remedy
