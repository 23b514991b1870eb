"""Limit of the bytes that are read and kept for the names of one process, for all its objects together.

Scope: a sum with a limit. The target may map any number of files, so limits per file do not bound their sum. A process
with 500 objects, libLLVM among them, reads about 100 MB of symbol tables.
"""

from __future__ import annotations

from typing import Final

from nativeleak.symbols.source import ElfError

MAX_READ_BYTES: Final = 2 << 30
"""Limit for symbol tables and files that are read for a checksum; half a minute's work."""
MAX_KEPT_BYTES: Final = 256 << 20
"""Limit of bytes that stay in memory: indexes of symbol tables, unpacked ``.gnu_debugdata``."""


class Budget:
    """Bytes that may still be read and kept.

    Args:
        read_bytes: Limit of all reads.
        kept_bytes: Limit of all kept bytes.
    """

    def __init__(self, read_bytes: int = MAX_READ_BYTES, kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._read_bytes = read_bytes
        self._kept_bytes = kept_bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes that may still be kept."""
        return self._kept_bytes

    def read(self, n_bytes: int) -> None:
        """Count bytes that are about to be read.

        Raises:
            ElfError: They exceed the limit and must not be read.
        """
        if n_bytes > self._read_bytes:
            raise ElfError("the symbols of this process exceed the limit for reading")
        self._read_bytes -= n_bytes

    def keep(self, n_bytes: int) -> None:
        """Count bytes that are kept.

        Raises:
            ElfError: They exceed the limit and must not be kept.
        """
        if n_bytes > self._kept_bytes:
            raise ElfError("the symbols of this process exceed the limit for memory")
        self._kept_bytes -= n_bytes
