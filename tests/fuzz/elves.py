"""Small ELF files to be damaged: kept in the corpus as a linker made them, or put together here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from unit.unwind import objects

SEEDS = Path(__file__).resolve().parent / "seeds"
"""``plain.so``: symbols, build id, debug link; ``bare.so``: without section headers; ``debug.so``: ``.debug_frame``;
``c_library.so``: mmap without unwind information, from the text in ``tests/unit/unwind/test_bare.py``."""


@cache
def elf_seeds() -> Sequence[bytes]:
    """Of each kind one, ``plain.so`` first."""
    names = ("plain.so", "bare.so", "debug.so", "c_library.so")
    made = objects.make_object(objects.frames((objects.TEXT, 64, bytes.fromhex("410e10"))), b"\xe8\0\0\0\0\xc3")
    return [*((SEEDS / name).read_bytes() for name in names), made]


def debugdata_object(payload: bytes) -> bytes:
    """An object whose ``.gnu_debugdata`` is ``payload``."""
    names = b"\0.gnu_debugdata\0"
    data_at = 64
    names_at = data_at + len(payload)
    headers_at = names_at + len(names)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 0, 0, data_at, len(payload), 0, 0, 1, 0),
        (0, 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, headers_at, 0, 64, 56, 0, 64, len(sections), 2
    )
    return header + payload + names + b"".join(struct.pack("<IIQQQQIIQQ", *each) for each in sections)
