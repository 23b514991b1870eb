"""Call sites as a table of comma-separated values (RFC 4180), one line a site.

Caveat: a spreadsheet runs a cell that begins like a formula, and the target chooses names. Text that begins with one
of ``= + - @`` has a ``'`` before it.
"""

from __future__ import annotations

import csv
import io
from typing import BinaryIO, Final

from nativeleak.reports.exports.columns import COLUMNS, Cell, rows
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import SiteTable

_FORMULA: Final = ("=", "+", "-", "@")


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """A line of names, then a line a site, most of the metric first; what is not known is an empty cell."""
    del options
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for cells in rows(report):
        table.writerow(map(_shown, cells))
    stream.write(encode_text(text.getvalue()))


def _shown(cell: Cell) -> Cell:
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
