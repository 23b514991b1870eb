"""Output that other programs have recorded: strace's, or that of ``pmap -x``, as a recording of ours."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from nativeleak import __version__, arch
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.pmap.recorded import RecordedPmap
from nativeleak.engines.pmap.smaps import MAX_LINE, Listing, is_pmap_start, parse_pmap
from nativeleak.engines.registry import coverage_of
from nativeleak.engines.strace.recorded import RecordedStrace, looks_like_strace
from nativeleak.errors import NativeleakError, UsageError
from nativeleak.model import Snapshot, Stack, TraceInfo
from nativeleak.process import procfs
from nativeleak.process.namespaces import open_regular
from nativeleak.recording.writer import RecordingWriter
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded

_HEAD_BYTES: Final = 1 << 16
_MAX_PMAP_BYTES: Final = 1 << 30


class RecordedSource(Protocol):
    """Output of another program, read to its end.

    Attributes:
        backend: ``tool.backend`` of the report.
        probes: What it saw.
        started: When it began, seconds since 1970.
        duration_s: From the first to the last of it.
    """

    backend: str
    probes: tuple[str, ...]
    started: float
    duration_s: float

    def take_notes(self) -> list[tuple[str, str]]:
        """(word, sentence) of what was found, each once."""

    def take_stacks(self) -> list[Stack]:
        """Stacks seen for the first time since the last call."""

    def snapshots(self, interval_s: float) -> Iterable[Snapshot]:
        """Everything as it was, again and again; at least once."""


class Replay:
    """Makes a recording of output that another program has recorded.

    Args:
        options: ``output``, ``interval_s`` and ``overwrite`` are used.
        source: The output.
        reporter: Shows what is found.
    """

    def __init__(self, options: TraceOptions, source: RecordedSource, reporter: Reporter) -> None:
        self._options, self._source, self._reporter = options, source, reporter

    def run(self) -> Recorded:
        """Read it all.

        Raises:
            NativeleakError: It is not what it was taken for.
        """
        output = self._options.output
        with RecordingWriter(output, self._trace_info(), overwrite=self._options.overwrite) as writer:
            last: Snapshot | None = None
            try:
                for last in self._source.snapshots(self._options.interval_s):
                    writer.add_stacks(self._source.take_stacks())
                    for what, text in self._source.take_notes():
                        writer.add_event(last.elapsed_s, what, text)
                        self._reporter.say(text)
                    writer.write_snapshot(last)
            except BaseException:
                with contextlib.suppress(OSError):
                    output.unlink()
                raise
            if last is None:
                raise NativeleakError("reading the recorded output failed: there is nothing in it")
            writer.finish("end of input", last.elapsed_s, last.targets)
            return Recorded(output, writer.serialize() if writer.failed else None)

    def _trace_info(self) -> TraceInfo:
        return TraceInfo(
            version=__version__,
            started=self._source.started,
            backend=self._source.backend,
            kernel=platform.release(),
            machine=arch.here().name,
            boot_id=procfs.read_boot_id(),
            probes=self._source.probes,
            options=self._options.given,
            coverage=coverage_of(self._source.backend),
        )


def open_inputs(options: TraceOptions, reporter: Reporter) -> Replay:
    """Read what other programs have recorded, strace's output or that of pmap, told apart by how it begins.

    Raises:
        NativeleakError: A file cannot be read, or is neither.
    """
    return Replay(options, _source(options), reporter)


def _source(options: TraceOptions) -> RecordedSource:
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
