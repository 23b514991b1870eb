"""Writes a report to its destination: a file that is whole or not there, or standard output.

Scope: bytes, of text and binary formats alike. Text comes as UTF-8; standard output gets it in its own encoding.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nativeleak.errors import NativeleakError


def encode_text(text: str) -> bytes:
    """Text as every text format writes it: UTF-8, with an escape for what UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A stream into a new file (mode 0600) that takes the place of ``path`` in one step when the block ends well.

    An error in the block leaves whatever was at ``path`` before.

    Raises:
        NativeleakError: ``path`` is a symbolic link or no regular file, or cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            raise NativeleakError(f"writing {path} failed: it is {kind}", "Name another file with -o.")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # creates with mode 0600
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with open(descriptor, "wb") as file:
            yield file
        Path(name).replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def open_stdout(*, is_binary: bool = False) -> Iterator[BinaryIO]:
    """A stream whose bytes go to standard output when the block ends well; after an error nothing is written.

    A reader that has gone away (``| head``) is no error.

    Args:
        is_binary: The bytes are written as they are; else they are UTF-8 text, written in the encoding of
            standard output.

    Raises:
        NativeleakError: Standard output cannot be written.
    """
    kept = io.BytesIO()
    yield kept
    _write_stdout(kept.getbuffer(), is_binary=is_binary)


def write_stdout(text: str) -> None:
    """Write text to standard output, as ``open_stdout`` does.

    Raises:
        NativeleakError: Standard output cannot be written.
    """
    _write_stdout(memoryview(encode_text(text)), is_binary=False)


def _write_stdout(data: memoryview, *, is_binary: bool) -> None:
    encoding = codecs.lookup(sys.stdout.encoding or "utf-8").name
    try:
        sys.stdout.flush()
        if is_binary or encoding == "utf-8":
            sys.stdout.buffer.write(data)
        else:
            sys.stdout.buffer.write(str(data, "utf-8").encode(encoding, "backslashreplace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python flushes once more when it exits, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise NativeleakError(
            f"writing the report failed: {error.strerror}", "Free some space, or name a file elsewhere with -o."
        ) from error


def _unwritable(path: Path, error: OSError) -> NativeleakError:
    return NativeleakError(
        f"writing {path} failed: {error.strerror}", "Name a file in a folder you may write to, with free space."
    )
