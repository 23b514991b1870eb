"""Files that may have the debug information of a module: known by its name and its build id alone.

Scope: names of files, best first. Whoever opens one compares the build id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.process.procfs import read_maps
from nativeleak.symbols.debugfiles import DEBUG_FOLDERS

_LIBRARY_FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
)
_MAX_PLACES: Final = 64
"""Most files that are tried for one module."""


class Places:
    """Where the modules of some processes may be.

    Args:
        exes: Paths of their executables.
        pids: The processes, dead or alive; their files are looked at through /proc while they live.
        folders: Where the user says that binaries or debug files are.
    """

    def __init__(self, exes: Iterable[str], pids: Iterable[int] = (), folders: Iterable[Path] = ()) -> None:
        self._exes = [exe.removesuffix(" (deleted)") for exe in exes if exe.startswith("/")]
        self._folders = [os.fspath(folder.absolute()) for folder in folders]
        self._mapped: dict[str, list[str]] = {}
        for pid in pids:
            for path in _mapped_files(pid):
                self._mapped.setdefault(path.rsplit("/", 1)[-1], []).append(f"/proc/{pid}/root{path}")

    def files(self, module: str, build_id: str) -> list[str]:
        """Absolute paths that may be the module or its debug file, best first.

        Args:
            module: File name of the module.
            build_id: In hex.
        """
        if "/" in module or not module:
            return []
        return list(dict.fromkeys(self._files(module, build_id)))[:_MAX_PLACES]

    def _files(self, module: str, build_id: str) -> Iterator[str]:
        for folder in (*self._folders, *DEBUG_FOLDERS):
            yield f"{folder}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
        for folder in self._folders:
            yield f"{folder}/{module}"
            yield f"{folder}/{module}.debug"
        yield from self._mapped.get(module, ())
        yield from (exe for exe in self._exes if exe.rsplit("/", 1)[-1] == module)
        for folder in (*(exe.rsplit("/", 1)[0] for exe in self._exes), *_LIBRARY_FOLDERS):
            yield f"{folder}/{module}"


def _mapped_files(pid: int) -> list[str]:
    """Paths of the files that a process maps executable; none of a process that has ended or that we may not see."""
    try:
        maps = read_maps(pid)
    except (NativeleakError, OSError, ValueError):
        return []
    return list(dict.fromkeys(each.path for each in maps if each.executable and each.path.startswith("/")))
