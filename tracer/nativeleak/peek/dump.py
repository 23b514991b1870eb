"""Copies a range of memory into a file or a pipe as it is read: a few MiB of our memory, whatever the size.

Scope: the file is as long as the range, so that offsets are addresses less the start. Pages that are not in memory are
holes in a file, and zeros in a pipe. What was written leaves the page cache again, so that a machine without free
memory is not pressed further.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from nativeleak.errors import NativeleakError, UsageError
from nativeleak.peek.ranges import Span
from nativeleak.peek.reading import PresentMemory
from nativeleak.peek.stream import masked
from nativeleak.reports.output import open_file
from nativeleak.units import format_bytes

_SYNC_BYTES: Final = 32 << 20
_ZEROS: Final = bytes(1 << 20)
_SPARE_BYTES: Final = 16 << 20
_IN_MEMORY: Final = frozenset(("tmpfs", "ramfs"))


@dataclass(slots=True)
class Dumped:
    """What was written.

    Attributes:
        n_bytes: Length: that of the range.
        read_bytes: Of these, read from the process.
        failed_bytes: In memory when asked for and gone a moment later; zeros.
        n_secrets: Masked.
        has_ended: The process ended meanwhile: the rest is zeros.
    """

    n_bytes: int = 0
    read_bytes: int = 0
    failed_bytes: int = 0
    n_secrets: int = 0
    has_ended: bool = False


def dump(
    pid: int, span: Span, path: Path | None, *, raw: bool, progress: Callable[[int, int], None] | None = None
) -> Dumped:
    """Write a range to a new file that only its owner can read, or to standard output.

    Args:
        pid: The process.
        span: The range.
        path: None for standard output.
        raw: Write secrets too.
        progress: Called with the bytes done and the bytes to do.

    Raises:
        UsageError: The program keeps the range out of its core dumps, and ``raw`` is not given.
        NativeleakError: There is no such process, no room, or the file cannot be written.
    """
    if span.is_private and not raw:
        raise UsageError(
            f"peek at {span.start:x}-{span.end:x} failed: the program keeps it out of core dumps (MADV_DONTDUMP)",
            "It may hold keys. --raw writes it all the same.",
        )
    with PresentMemory(pid) as memory:
        todo = memory.resident_bytes(span.pieces())
        if path is None:
            with open(1, "wb", closefd=False) as stdout:
                return _copy(memory, span, stdout, todo, raw=raw, is_file=False, progress=progress)
        _refuse_without_room(path, todo)
        with open_file(path) as file:
            return _copy(memory, span, file, todo, raw=raw, is_file=True, progress=progress)


def _copy(
    memory: PresentMemory,
    span: Span,
    out: BinaryIO,
    todo: int,
    *,
    raw: bool,
    is_file: bool,
    progress: Callable[[int, int], None] | None,
) -> Dumped:
    dumped = Dumped(n_bytes=span.n_bytes)
    place, unsynced = span.start, 0
    for part in masked(memory.whole(span), raw=raw):
        if is_file:
            out.seek(part.address - span.start)
        else:
            _write_zeros(out, part.address - place)
        out.write(part.data)
        place = part.address + len(part.data)
        dumped.n_secrets += part.n_secrets
        unsynced += len(part.data)
        if is_file and unsynced >= _SYNC_BYTES:
            _leave_cache(out)
            unsynced = 0
        if progress is not None:
            progress(memory.read_bytes, todo)
    if is_file:
        out.truncate(span.n_bytes)
        _leave_cache(out)
    else:
        _write_zeros(out, span.end - place)
        out.flush()
    dumped.read_bytes, dumped.failed_bytes = memory.read_bytes, memory.failed_bytes
    dumped.has_ended = memory.has_ended
    return dumped


def _leave_cache(file: BinaryIO) -> None:
    """Write to the disk what is written, and let go of its pages."""
    file.flush()
    os.fdatasync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_zeros(out: BinaryIO, n_bytes: int) -> None:
    while n_bytes > 0:
        out.write(_ZEROS[:n_bytes])
        n_bytes -= len(_ZEROS)


def _refuse_without_room(path: Path, n_bytes: int) -> None:
    """Say before the first byte, not after the last that fits, that a file system is too small, or is memory itself."""
    folder = path.absolute().parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # opening the file says why
    kind = _kind_of(folder)
    if kind in _IN_MEMORY:
        free = min(free, _available_bytes())
    if n_bytes + _SPARE_BYTES <= free:
        return
    where = f"{folder} is memory itself ({kind}), with" if kind in _IN_MEMORY else f"{folder} has"
    raise NativeleakError(
        f"writing {path} failed: {format_bytes(n_bytes)} are in memory, and {where} {format_bytes(free)} free",
        "Name a file on a larger disk, a part of the range, or a pipe: --output - | ssh HOST 'cat > FILE'",
    )


def _kind_of(folder: Path) -> str:
    """File system of a folder; empty where /proc/self/mounts does not say."""
    best, kind = -1, ""
    real = os.path.realpath(folder)
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        words = line.split(" ")
        point = words[1].replace("\\040", " ") if len(words) > 2 else ""
        if point and (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= best:
            best, kind = len(point), words[2]
    return kind


def _available_bytes() -> int:
    """Memory that can be had without pushing others out."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
