"""Reads the figures of an HTML report, as its script does."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

_TYPES = {"u8": "<u1", "i8": "<i1", "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "f64": "<f8"}
_DATA = re.compile(r'<script id="data" type="application/octet-stream">([^<]*)</script>')

Columns = dict[str, npt.NDArray[Any]]


def unpack(text: str) -> tuple[dict[str, Any], Columns]:
    """Facts and columns of the text that ``reports.html.columns.encode`` made."""
    raw = zlib.decompress(base64.b64decode(text, validate=True))
    (length,) = struct.unpack_from("<I", raw)
    head = json.loads(raw[4 : 4 + length])
    columns: Columns = {}
    at = 4 + length
    for name, kind, n in head["columns"]:
        columns[name] = np.frombuffer(raw, _TYPES[kind], n, at)
        at += columns[name].nbytes
    assert at == len(raw), "bytes after the last column"
    return head["facts"], columns


def figures(page: str) -> tuple[dict[str, Any], Columns]:
    """Facts and columns of a whole page."""
    found = _DATA.findall(page)
    assert len(found) == 1, "a page has its figures once"
    return unpack(found[0])


def outstanding(page: str) -> dict[tuple[str, tuple[str, ...]], int]:
    """Outstanding bytes at the end by thread and stack, leaf first; nothing that holds nothing."""
    facts, columns = figures(page)
    n_sites, names = len(columns["site_stack"]), facts["strings"]
    held = columns["bytes"].astype(np.int64).reshape(-1, n_sites).sum(axis=0)
    starts = [0, *np.cumsum(columns["stack_length"]).tolist()]
    sums: dict[tuple[str, tuple[str, ...]], int] = {}
    for site in range(n_sites):
        stack = columns["site_stack"][site]
        steps = columns["stack_steps"][starts[stack] : starts[stack + 1]]
        key = (facts["threads"][columns["site_thread"][site]][0], tuple(names[columns["step_name"][s]] for s in steps))
        if held[site]:
            sums[key] = sums.get(key, 0) + int(held[site])
    return sums
