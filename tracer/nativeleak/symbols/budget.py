"""How much may be read and kept for naming one process, all its objects together.

Scope: a sum with a limit. The files come from the target, which may map any number of them: limits on one file alone do
not bound what they take together. A process of 500 objects, libLLVM among them, reads some 100 MB of symbol tables.
"""

from __future__ import annotations

from typing import Final

from nativeleak.symbols.source import ElfError

MAX_READ_BYTES: Final = 2 << 30
"""Of symbol tables and of files read for their checksums; half a minute's work."""
MAX_KEPT_BYTES: Final = 256 << 20
"""Of what stays in memory: indexes of symbol tables, unpacked ``.gnu_debugdata``."""


class Budget:
    """What may still be read and kept.

    Args:
        read_bytes: In all.
        kept_bytes: In all.
    """

    def __init__(self, read_bytes: int = MAX_READ_BYTES, kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._read_bytes = read_bytes
        self._kept_bytes = kept_bytes

    @property
    def kept_bytes(self) -> int:
        """What may still be kept, bytes."""
        return self._kept_bytes

    def read(self, n_bytes: int) -> None:
        """Take note that so much is about to be read.

        Raises:
            ElfError: It is more than is left; nothing may be read.
        """
        if n_bytes > self._read_bytes:
            raise ElfError("the files of this process have more symbols than are read")
        self._read_bytes -= n_bytes

    def keep(self, n_bytes: int) -> None:
        """Take note that so much is kept.

        Raises:
            ElfError: It is more than is left; it may not be kept.
        """
        if n_bytes > self._kept_bytes:
            raise ElfError("the files of this process have more symbols than are kept")
        self._kept_bytes -= n_bytes
