"""Starts every child process of the tool, so that none runs code that somebody else may have planted.

Root runs this tool in folders that anybody may write to. A child therefore starts in ``/``, by an absolute path, with a
small environment of our making: nothing that steers Python (``PYTHON*``), the dynamic loader (``LD_*``) or the C
library reaches it. Python children run isolated (``-I``): neither the current folder nor the user's own packages are on
their path.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nativeleak

SYSTEM_FOLDERS: Final = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)
"""Folders of programs that belong to the machine, in the order in which they are searched."""

_KEPT: Final = frozenset(
    {"COLORTERM", "COLUMNS", "HOME", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "TERM", "TMPDIR", "TZ"}
)
"""Variables of the caller that a child gets: its terminal, language, time zone and folders."""
_KEPT_PREFIXES: Final = ("LC_", "XDG_")

Process = subprocess.Popen


def environment(**more: str) -> dict[str, str]:
    """The environment of a child.

    Args:
        more: Variables that this child needs besides.
    """
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return {**kept, "PATH": ":".join(SYSTEM_FOLDERS), **more}


def python_module(module: str, *arguments: str, folders: Sequence[str] | None = None) -> list[str]:
    """The command that runs a module of ours in a Python of its own.

    It imports from where its parent does, our own package first, but for folders that others may write to.

    Args:
        module: Its dotted name.
        arguments: For the module.
        folders: Where it finds what it imports beside the standard library and us; None: where its parent does.
    """
    others = filter(_is_trusted_folder, sys.path) if folders is None else folders
    path = list(dict.fromkeys([str(Path(nativeleak.__file__).resolve().parents[1]), *others]))
    site = "import site;site.main();" if folders is None else ""
    code = f"import sys;sys.path+={path!r};{site}import runpy;runpy.run_module({module!r},None,'__main__',True)"
    return [_python(), "-I", "-S", "-c", code, *arguments]


def python_script(path: str, *arguments: str) -> list[str]:
    """The command that runs a file with the standard library alone.

    Args:
        path: The file, one of ours.
        arguments: For the script.
    """
    return [_python(), "-I", "-S", str(Path(path).resolve()), *arguments]


def python_code(code: str) -> list[str]:
    """The command that runs a line of Python with the standard library alone."""
    return [_python(), "-I", "-S", "-c", code]


def find_program(name: str) -> str | None:
    """Absolute path of a program of this machine; None where there is none that we may trust.

    Absolute folders of ``PATH`` come first. A program there counts only if it and its folder belong to root or to us,
    and others may not write to them.

    Args:
        name: Without a folder.
    """
    of_caller = (folder for folder in os.environ.get("PATH", "").split(":") if _is_trusted_folder(folder))
    for folder in (*of_caller, *SYSTEM_FOLDERS):
        path = Path(folder, name)
        if path.is_file() and os.access(path, os.X_OK) and (folder in SYSTEM_FOLDERS or _is_trusted(path)):
            return str(path)
    return None


def start(command: Sequence[str], *, env: Mapping[str, str] | None = None, **how: Any) -> Process[bytes]:
    """Start a child in ``/``.

    Args:
        command: Its program by absolute path, and its arguments.
        env: Its environment; None: ``environment()``.
        how: As ``subprocess.Popen`` takes it.

    Raises:
        OSError: It cannot be started.
    """
    _check(command)
    return subprocess.Popen(command, cwd="/", env=environment() if env is None else env, **how)


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, **how: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a child in ``/`` to its end; its status is the caller's to look at.

    Args:
        command: Its program by absolute path, and its arguments.
        env: Its environment; None: ``environment()``.
        how: As ``subprocess.run`` takes it.

    Raises:
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It took longer than ``timeout``.
    """
    _check(command)
    return subprocess.run(command, cwd="/", env=environment() if env is None else env, check=False, **how)


def _check(command: Sequence[str]) -> None:
    if not Path(command[0]).is_absolute():
        raise ValueError(f"not an absolute path: {command[0]}")


def _python() -> str:
    return str(Path(sys.executable).absolute())


def _is_trusted_folder(folder: str) -> bool:
    return folder in SYSTEM_FOLDERS or (folder.startswith("/") and _is_trusted(Path(folder)))


def _is_trusted(path: Path) -> bool:
    """Whether only root and we may change it."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return facts.st_uid in (0, os.geteuid()) and not facts.st_mode & stat.S_IWOTH
