"""The recordings that the arguments of a command name: files, folders, patterns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from nativeleak.errors import UsageError

SUFFIX: Final = ".nlk"
_MAX_FILES: Final = 100_000
"""A folder such as / must not be searched for hours."""


def find_recordings(arguments: Sequence[Path]) -> tuple[Path, ...]:
    """The files, in the order of the arguments, each once; those of a folder or pattern by name.

    Args:
        arguments: A file, whatever its name; a folder, which stands for all ``.nlk`` files in it and below; or a
            pattern with ``*``, ``?`` or ``[`` that the shell left alone.

    Raises:
        UsageError: A folder or pattern has no recording.
    """
    found = dict.fromkeys(path for argument in arguments for path in _recordings_of(argument))
    return tuple(found)


def _recordings_of(argument: Path) -> Iterator[Path]:
    if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises where a folder may not be looked into
        below = _below(argument)
        if not below:
            raise UsageError(f"{argument} has no recordings: no file in it or below ends in {SUFFIX}", "Name a file.")
        yield from below
    elif has_magic(str(argument)) and not os.path.lexists(argument):
        matches = sorted(glob(str(argument), recursive=True))  # noqa: PTH207 - takes whole paths, absolute ones too
        if not matches:
            raise UsageError(f"no file matches {argument}", "Check the pattern.")
        yield from map(Path, matches)
    else:
        yield argument


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for number, path in enumerate(folder.rglob("*")):
        if number == _MAX_FILES:
            raise UsageError(f"{folder} has more than {_MAX_FILES:,} files", "Name a smaller folder.")
        if path.suffix == SUFFIX and os.path.isfile(path):  # noqa: PTH113 - as above
            found.append(path)
    return sorted(found)
