"""A file as lines of text: packed or not, in UTF-8 or UTF-16, with the line ends of any system.

Scope: gzip, bzip2 and xz are unpacked; other packings are named. Text that is not UTF-8 keeps its bytes as replacement
characters, and never fails.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from nativeleak.errors import NativeleakError
from nativeleak.process.namespaces import open_regular

MAX_TEXT_BYTES: Final = 256 << 20
"""Unpacked bytes beyond which a file that must be seen as a whole is refused."""
MAX_LINE: Final = (1 << 16) + 1
"""Characters of a line; what lies behind them is left out."""
_HEAD_BYTES: Final = 1 << 16
_OPENERS: Final[dict[bytes, Callable[[BinaryIO], Any]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BROKEN: Final = (EOFError, OSError, zlib.error, lzma.LZMAError)


class InputFile:
    """One file, read as often as needed.

    Args:
        path: Of a regular file.
        data: Its bytes, where they are in memory already.

    Attributes:
        notes: What was found while reading: a packed file that breaks off.

    Raises:
        NativeleakError: It cannot be opened.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        self.notes: list[str] = []
        self._data = data
        with self._open() as file:
            head = file.read(_HEAD_BYTES)
        self.magic = head[:16]
        self.packing = next((magic for magic in _OPENERS if head.startswith(magic)), None)

    @property
    def mtime(self) -> float:
        """When it was written, seconds since 1970; 0.0 where that is unknown."""
        try:
            return 0.0 if self._data is not None else self.path.stat().st_mtime
        except OSError:
            return 0.0

    def head(self, n_bytes: int = _HEAD_BYTES) -> bytes:
        """The first bytes, unpacked."""
        try:
            with self._unpacked() as file:
                return file.read(n_bytes)
        except _BROKEN:
            return b""

    def lines(self) -> Iterator[str]:
        """Its lines, without their ends."""
        encoding = _encoding(self.head(4096))
        with io.TextIOWrapper(self._unpacked(), encoding=encoding, errors="replace", newline="\n") as text:
            yield from self._lines_of(text)

    def _lines_of(self, text: io.TextIOWrapper) -> Iterator[str]:
        is_first, skips = True, False
        while True:
            try:
                line = text.readline(MAX_LINE)
            except _BROKEN as error:
                self.notes.append(f"{self.path}: the packed file breaks off: {error}")
                return
            if not line:
                return
            if skips:
                skips = not line.endswith("\n")
                continue
            skips = not line.endswith("\n")
            if is_first:
                line, is_first = line.removeprefix("\ufeff"), False
            yield line.rstrip("\r\n")

    def text(self) -> str:
        """All of it, with newlines as the only line ends.

        Raises:
            NativeleakError: It is larger than ``MAX_TEXT_BYTES``.
        """
        found, room = [], MAX_TEXT_BYTES
        for line in self.lines():
            room -= len(line) + 1
            if room < 0:
                raise NativeleakError(
                    f"reading {self.path} failed: it is larger than {MAX_TEXT_BYTES >> 20} MiB", "cut it into parts"
                )
            found.append(line)
        return "\n".join(found)

    def _open(self) -> BinaryIO:
        if self._data is not None:
            return io.BytesIO(self._data)
        try:
            return os.fdopen(open_regular(str(self.path)), "rb")
        except OSError as error:
            raise NativeleakError(
                f"reading {self.path} failed: {error.strerror}", "check the path and its rights"
            ) from error

    def _unpacked(self) -> BinaryIO:
        raw = self._open()
        packed: BinaryIO = _OPENERS[self.packing](raw) if self.packing is not None else raw
        return packed


def _encoding(head: bytes) -> str:
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return encoding
    # UTF-16 without its mark: every other byte of ASCII is 0.
    if len(head) >= 64 and head[1:64:2].count(0) > 28:
        return "utf-16-le"
    if len(head) >= 64 and head[0:64:2].count(0) > 28:
        return "utf-16-be"
    return "utf-8"
