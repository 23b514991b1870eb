"""Columns of figures for the page's script: compressed, and as text that a file of HTML can hold.

Layout, as ``web/src/data.js`` reads it: base64 of a zlib stream. In it: a little-endian u32 with the length of a JSON
object, the object, then the columns one after another without gaps. The object is ``{"facts": ..., "columns": [...]}``;
a column is ``[name, type, n]``, with the types ``u8 i8 u16 i16 u32 i32 f64``, all little-endian.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_TYPES: Final = (("u8", "<u1"), ("i8", "<i1"), ("u16", "<u2"), ("i16", "<i2"), ("u32", "<u4"), ("i32", "<i4"))
_ZLIB_LEVEL: Final = 6


def encode(facts: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """Facts and columns as ASCII text.

    Args:
        facts: What JSON can hold; no infinite numbers.
        columns: Arrays of any shape, stored flat in C order; integers in the smallest type that holds them, all else as
            f64.
    """
    named = [(name, *_packed(column)) for name, column in columns.items()]
    listed = [[name, kind, column.size] for name, kind, column in named]
    head = json.dumps({"facts": facts, "columns": listed}, allow_nan=False).encode("ascii")
    packer = zlib.compressobj(_ZLIB_LEVEL)
    parts = [packer.compress(struct.pack("<I", len(head)) + head)]
    parts += [packer.compress(column.tobytes()) for _, _, column in named]
    return base64.b64encode(b"".join([*parts, packer.flush()])).decode("ascii")


def _packed(column: npt.NDArray[Any]) -> tuple[str, npt.NDArray[Any]]:
    if column.dtype.kind in "iub":
        low, high = (int(column.min()), int(column.max())) if column.size else (0, 0)
        for kind, name in _TYPES:
            limits = np.iinfo(name)
            if limits.min <= low and high <= limits.max:
                return kind, column.astype(name)
    return "f64", column.astype("<f8")
