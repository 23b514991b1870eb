"""Bytes of an ELF file, from an open file or from memory.

Files are read with pread(2), not mapped: truncating a mapped file kills its reader with SIGBUS, and its pages count as
the recorder's memory.
"""

from __future__ import annotations

import os
from typing import Protocol

from nativeleak.errors import NativeleakError


class ElfError(NativeleakError):
    """The file is no supported ELF file, or it is damaged."""


class Source(Protocol):
    """Bytes of an ELF file."""

    @property
    def size(self) -> int:
        """Length of the file in bytes."""

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` at ``offset``.

        Raises:
            ElfError: The file is shorter.
        """

    def close(self) -> None:
        """Release all resources."""


class FileSource:
    """An open file; closing it closes the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` at ``offset``.

        Raises:
            ElfError: The file is shorter.
        """
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.size:
            raise _outside(offset, n_bytes, self.size)
        try:
            data = os.pread(self._fd, n_bytes, offset)
        except OSError as error:
            raise ElfError(f"reading an ELF file failed: {error.strerror}") from error
        if len(data) != n_bytes:
            raise ElfError(f"reading an ELF file failed: it was truncated to less than {offset + n_bytes} bytes")
        return data

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BytesSource:
    """An ELF file in memory: the vdso, or what ``.gnu_debugdata`` unpacks to."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` at ``offset``.

        Raises:
            ElfError: The file is shorter.
        """
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.size:
            raise _outside(offset, n_bytes, self.size)
        return self._data[offset : offset + n_bytes]

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


def _outside(offset: int, n_bytes: int, size: int) -> ElfError:
    return ElfError(f"reading an ELF file failed: {n_bytes} bytes at {offset} are outside its {size} bytes")
