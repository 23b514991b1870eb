"""Output that other programs have recorded: strace's, or that of ``pmap -x``, as a recording of ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from nativeleak.engines.pmap.recorded import RecordedPmap
from nativeleak.engines.pmap.smaps import MAX_LINE, Listing, is_pmap_start, parse_pmap
from nativeleak.engines.strace.recorded import RecordedStrace, looks_like_strace
from nativeleak.errors import NativeleakError, UsageError
from nativeleak.process.namespaces import open_regular
from nativeleak.session.fallback import Replay, Rerun, Teller
from nativeleak.session.run import TraceOptions

_HEAD_BYTES: Final = 1 << 16
_MAX_PMAP_BYTES: Final = 1 << 30


def open_inputs(options: TraceOptions, teller: Teller) -> Rerun:
    """Read what other programs have recorded, strace's output or that of pmap, told apart by how it begins.

    Raises:
        NativeleakError: A file cannot be read, or is neither.
    """
    return Rerun(options, _replay(options), teller)


def _replay(options: TraceOptions) -> Replay:
    if len(options.pids) > 1:
        raise UsageError("--input with several PIDs", "give one, or none: -p says which process of the output is meant")
    pid = options.pids[0] if options.pids else 0
    heads = [_head(path) for path in options.inputs]
    if all(any(map(is_pmap_start, head)) for head in heads):
        return RecordedPmap(_listings(options.inputs), pid)
    if len(options.inputs) > 1:
        raise UsageError(
            "--input with several files that are not all output of pmap", "give one file of strace's output"
        )
    if not looks_like_strace(heads[0]):
        raise NativeleakError(
            f"reading {options.inputs[0]} failed: it is neither output of strace nor of pmap",
            "record it so: strace -f -k -Y -ttt -o FILE -e trace=%memory,%process -p PID, or pmap -x PID > FILE",
        )
    return RecordedStrace(options.inputs[0], _open(options.inputs[0]), pid)


def _open(path: Path) -> int:
    try:
        return open_regular(str(path))
    except OSError as error:
        raise NativeleakError(f"reading {path} failed: {error.strerror}", "Check the path and its rights.") from error


def _head(path: Path) -> list[str]:
    fd = _open(path)
    try:
        return os.pread(fd, _HEAD_BYTES, 0).decode("utf-8", "replace").split("\n")
    finally:
        os.close(fd)


def _listings(paths: Sequence[Path]) -> list[tuple[float, Listing]]:
    """The listings of all files with the time each was written, in order of time; those of one file a second apart."""
    found: list[tuple[float, Listing]] = []
    for path in paths:
        with open(_open(path), encoding="utf-8", errors="replace", newline="\n") as file:
            facts = os.fstat(file.fileno())
            if facts.st_size > _MAX_PMAP_BYTES:
                raise NativeleakError(f"reading {path} failed: it is larger than 1 GiB", "give fewer listings")
            each = list(parse_pmap(_bounded_lines(file.readline)))
        found += [(facts.st_mtime - len(each) + 1 + i, listing) for i, listing in enumerate(each)]
    return sorted(found, key=lambda item: item[0])


def _bounded_lines(readline: Callable[[int], str]) -> Iterator[str]:
    while line := readline(4 * MAX_LINE):
        yield line.rstrip("\n")
