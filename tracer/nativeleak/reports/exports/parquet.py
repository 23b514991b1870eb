"""Call sites as a Parquet file for pandas, DuckDB, Spark and their like: the columns of the CSV table, with types."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any, BinaryIO

import pandas as pd

from nativeleak.errors import UsageError
from nativeleak.reports.exports.columns import COLUMNS, rows
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.report import SiteTable


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """One row a site, most of the metric first; what is not known is null.

    Raises:
        UsageError: pyarrow, which writes the file, is not installed.
    """
    del options
    if find_spec("pyarrow") is None:
        raise UsageError(
            "report --format parquet failed: it needs the Python package pyarrow, which is not installed",
            "Install it where nativeleak is: pip install pyarrow. Or take --format csv, which has the same columns.",
        )
    packed = io.BytesIO()
    table(report).to_parquet(packed, engine="pyarrow", index=False)
    stream.write(packed.getvalue())


def table(report: SiteTable) -> pd.DataFrame:
    """The rows of the file, with the types of ``COLUMNS``."""
    types: dict[str, Any] = dict(COLUMNS)
    return pd.DataFrame(list(rows(report)), columns=list(COLUMNS), dtype=object).astype(types)
