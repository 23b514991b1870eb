"""The configuration files: what users tell once of their machines and programs instead of in every command.

Scope: ``/etc/nativeleak.toml``, then ``$XDG_CONFIG_HOME/nativeleak/config.toml``; both may be missing. A file is only
read where nobody but its reader and root can have written it: the tracer runs as root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from nativeleak.errors import UsageError
from nativeleak.frames.libraries import BUILT_IN, OWN, Libraries

SYSTEM: Final = Path("/etc/nativeleak.toml")
_KEY: Final = "libraries"
_MAX_BYTES: Final = 1 << 20
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def config_files() -> tuple[Path, ...]:
    """The files in the order in which they are read; the later one's patterns go before the earlier one's."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(home) if home.startswith("/") else Path.home() / ".config"
    return SYSTEM, folder / "nativeleak" / "config.toml"


def known_libraries(patterns: Sequence[str], files: Iterable[Path] | None = None) -> Libraries:
    """The libraries that come with the program, those of the configuration files, and those of the command line.

    Args:
        patterns: Of ``--library``.
        files: Configuration files; by default ``config_files()``.

    Raises:
        UsageError: A file cannot be read, is wrong, or can be written by others; or a pattern is wrong.
    """
    libraries = BUILT_IN
    for path in config_files() if files is None else files:
        libraries = libraries.extended(_read_patterns(path))
    for pattern in patterns:
        _check_pattern(pattern, "--library")
    return libraries.extended(patterns) if patterns else libraries


def _read_patterns(path: Path) -> tuple[str, ...]:
    text = _read_text(path)
    if text is None:
        return ()
    import tomllib  # here: few have such a file

    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(path, str(error), "correct the file, or move it away") from error
    unknown = next((key for key in settings if key != _KEY), None)
    if unknown is not None:
        raise _wrong(path, f"unknown key {unknown!r}", f"the only key is {_KEY}")
    patterns = settings.get(_KEY, [])
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise _wrong(path, f"{_KEY} is no list of texts", f'write {_KEY} = ["com.acme.framework.*", "libacme*.so*"]')
    for pattern in patterns:
        _check_pattern(pattern, f"{_KEY} in {path}")
    return tuple(patterns)


def _read_text(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        # A folder that is closed to us, such as root's after a change of user, holds no file of ours.
        if path == SYSTEM or not os.path.lexists(path):
            return None
        raise _wrong(path, "no permission", "make it readable for you, or move it away") from None
    except OSError as error:
        raise _wrong(path, error.strerror or str(error), "correct the path, or move the file away") from error
    with os.fdopen(fd, "rb") as stream:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise _wrong(path, "it is no file", "move it away")
        if facts.st_uid not in (0, os.geteuid()):
            raise _wrong(path, f"it belongs to UID {facts.st_uid}", f"chown it to UID {os.geteuid()}, or move it away")
        if facts.st_mode & _OTHERS_WRITE:
            raise _wrong(path, "others can write to it", f"chmod go-w {path}")
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise _wrong(path, "it is larger than 1 MiB", "move it away")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _wrong(path, "it is not UTF-8", "correct the file, or move it away") from error


def _wrong(path: Path, why: str, remedy: str) -> UsageError:
    return UsageError(f"configuration file {path} was not used: {why}", remedy)


def _check_pattern(pattern: str, where: str) -> None:
    plain = pattern.removeprefix(OWN)
    if not plain.strip("*?. :") or any(not char.isprintable() for char in plain):
        raise UsageError(
            f"{where}: {pattern!r} is no pattern of a library",
            "give a package, a file name or a namespace: com.acme.framework.*, libacme*.so*, acme::*",
        )
