"""Which Java virtual machine the target runs, found without asking it anything.

Scope: the version only. Three sources, best first: the ``release`` file of the JDK, the performance-counter file that
the JVM keeps mapped, and the version string inside libjvm.so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from nativeleak.process.mapped import map_file
from nativeleak.process.namespaces import open_in_root, open_regular
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.base import UNKNOWN_VERSION
from nativeleak.runtimes.hotspot.frames import LIBRARY

_RELEASE_LINE: Final = re.compile(rb'^JAVA_VERSION="([^"\n]{1,64})"', re.MULTILINE)
# A name in hsperfdata ends in NULs up to the data's alignment (PerfDataEntry in perfMemory.hpp).
_PERF_VERSION: Final = re.compile(rb"java\.property\.java\.vm\.version\0+([0-9][\x21-\x7e]{0,63})")
# Abstract_VM_Version::internal_vm_info_string() in abstract_vm_version.cpp: "... for linux-amd64 JRE (17.0.15+6), ..."
_BUILT_VERSION: Final = re.compile(rb" JRE \(([0-9][^)\0]{0,63})\)")
_MAX_SMALL_FILE: Final = 256 << 10
_MAX_LIBJVM: Final = 256 << 20
_CHUNK: Final = 1 << 20
_OVERLAP: Final = 128  # longer than any match of _BUILT_VERSION


def is_libjvm(path: str) -> bool:
    """Whether a mapped file of this path is the library that is HotSpot."""
    return path.rsplit("/", 1)[-1] == LIBRARY


def find_libjvm(maps: Iterable[MapEntry]) -> MapEntry | None:
    """The first mapping of a libjvm.so, None where the target is no JVM."""
    return next((entry for entry in maps if entry.inode and is_libjvm(entry.path)), None)


def read_version(pid: int, maps: Iterable[MapEntry]) -> str:
    """Version of the Java virtual machine mapped into the target, such as ``17.0.15``.

    Returns:
        ``"unknown"`` where no source tells it.
    """
    entries = list(maps)
    libjvm = find_libjvm(entries)
    if libjvm is None:
        return UNKNOWN_VERSION
    return _from_release(pid, libjvm) or _from_perf_data(pid, entries) or _from_libjvm(pid, libjvm) or UNKNOWN_VERSION


def _from_release(pid: int, libjvm: MapEntry) -> str | None:
    # JDK/lib/server/libjvm.so since 9; JDK/jre/lib/amd64/server/libjvm.so before.
    for folder in list(PurePosixPath(libjvm.path).parents)[1:5]:
        try:
            fd = open_in_root(pid, f"{folder}/release")
        except OSError:
            continue
        version = _search(fd, _RELEASE_LINE)
        if version:
            return version
    return None


def _from_perf_data(pid: int, maps: list[MapEntry]) -> str | None:
    for entry in maps:
        if "/hsperfdata_" in entry.path:
            fd = _open_mapping(pid, entry)
            return _search(fd, _PERF_VERSION) if fd is not None else None
    return None


def _from_libjvm(pid: int, libjvm: MapEntry) -> str | None:
    fd = _open_mapping(pid, libjvm)
    if fd is None:
        return None
    tail = b""
    with open(fd, "rb", buffering=0) as file:
        for _ in range(_MAX_LIBJVM // _CHUNK):
            chunk = file.read(_CHUNK)
            if not chunk:
                break
            match = _BUILT_VERSION.search(tail + chunk)
            if match:
                return match[1].decode("ascii", "replace")
            tail = chunk[-_OVERLAP:]
    return None


def _search(fd: int, pattern: re.Pattern[bytes]) -> str | None:
    with open(fd, "rb", buffering=0) as file:
        match = pattern.search(file.read(_MAX_SMALL_FILE) or b"")
    return match[1].decode("ascii", "replace") if match else None


def _open_mapping(pid: int, entry: MapEntry) -> int | None:
    try:
        return open_regular(map_file(pid, entry.start, entry.end))
    except OSError:
        pass
    try:
        return None if entry.deleted else open_in_root(pid, entry.path)
    except OSError:
        return None
