"""Puts a report where it was asked for: a file that is whole or not there, or standard output."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from nativeleak.errors import NativeleakError


def write_file(path: Path, text: str) -> None:
    """Writes the text to ``path`` (mode 0600), replacing a regular file in one step.

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
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


def write_stdout(text: str) -> None:
    """Writes the text to standard output; a reader that has gone away (``| head``) is no error.

    Raises:
        NativeleakError: Standard output cannot be written.
    """
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
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
