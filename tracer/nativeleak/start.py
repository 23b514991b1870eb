"""From options to a trace: the engine that is asked for, or the best that works here, or output recorded elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from nativeleak.engines.bpf.engine import Loader
from nativeleak.engines.choose import candidates, check_bcc, check_strace, fallen_to
from nativeleak.engines.names import EngineName
from nativeleak.engines.pmap.engine import PmapEngine
from nativeleak.engines.pmap.recorded import RecordedPmap
from nativeleak.engines.pmap.smaps import MAX_LINE, Listing, is_pmap_start, parse_pmap
from nativeleak.engines.strace.engine import DEFAULT_DURATION_S, StraceEngine
from nativeleak.engines.strace.recorded import RecordedStrace, looks_like_strace
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError, UsageError
from nativeleak.fallback import FallbackTrace, Replay, Rerun, Teller, check_targets
from nativeleak.recording.writer import RecordingWriter
from nativeleak.run import Observer, Trace, TraceOptions
from nativeleak.target.namespaces import open_regular
from nativeleak.units import format_duration

_LOADERS: Final = {EngineName.LIBBPF: Loader.LIBBPF, EngineName.BCC: Loader.BCC}
_HEAD_BYTES: Final = 1 << 16
_MAX_PMAP_BYTES: Final = 1 << 30


class Told(Observer, Teller, Protocol):
    """Who is told how a trace goes, whatever the engine."""


class Tracer(Protocol):
    """A trace, as far as the command line knows it.

    Attributes:
        recording: The recording itself, where its file could not be written to the end.
    """

    options: TraceOptions
    recording: bytes | None

    @property
    def writer(self) -> RecordingWriter | None:
        """Of the recording; None before it was begun."""

    def run(self) -> None:
        """Trace to the end.

        Raises:
            NativeleakError: It could not begin.
        """


def run_trace(options: TraceOptions, told: Told) -> Tracer:
    """Trace by the engine asked for; by ``auto`` the best that works, said in one line where it is not the first.

    Returns:
        The trace, at its end.

    Raises:
        NativeleakError: No engine works here; the error is the first one's.
    """
    if options.inputs:
        rerun = Rerun(options, open_inputs(options), told)
        rerun.run()
        return rerun
    failures: list[tuple[EngineName, CannotTraceError]] = []
    for engine in candidates(options.engine):
        is_forced = options.engine is not EngineName.AUTO
        tracer: Trace | FallbackTrace | None = None
        try:
            tracer = _make(engine, options, told, failures, is_forced=is_forced)
            tracer.run()
        except CannotTraceError as error:
            if is_forced or isinstance(error, MendableError) or (tracer is not None and tracer.has_begun):
                raise
            failures.append((engine, error))
        else:
            return tracer
    raise failures[0][1]


def _make(
    engine: EngineName,
    options: TraceOptions,
    told: Told,
    failures: Sequence[tuple[EngineName, CannotTraceError]],
    *,
    is_forced: bool,
) -> Trace | FallbackTrace:
    if engine in _LOADERS:
        if engine is EngineName.BCC:
            if not is_forced:
                check_bcc()
            told = _SayFirst(told, fallen_to(engine, failures[0][1].what)) if failures else told
        return Trace(replace(options, loader=_LOADERS[engine]), told)
    if engine is EngineName.STRACE:
        check_strace(is_forced=is_forced)
    targets = check_targets(options.pids)
    watcher = StraceEngine(targets) if engine is EngineName.STRACE else PmapEngine(targets)
    if failures:
        told.say(fallen_to(engine, failures[0][1].what))
    if isinstance(watcher, StraceEngine):
        options = _bounded(options)
        told.say(cost_warning(watcher, options.duration_s or 0.0))
    return FallbackTrace(options, watcher, told)


class _SayFirst:
    """An observer that has something to say once it is known that the engine works."""

    def __init__(self, told: Told, text: str) -> None:
        self._told = told
        self._text = text

    def attached(self, trace: Trace) -> None:
        """All probes are in place."""
        self._told.say(self._text)
        self._told.attached(trace)

    def tick(self, trace: Trace) -> None:
        """Called several times a second."""
        self._told.tick(trace)

    def note(self, text: str) -> None:
        """Something that the user should know at once."""
        self._told.note(text)

    def say(self, text: str) -> None:
        """One line of progress."""
        self._told.say(text)


def _bounded(options: TraceOptions) -> TraceOptions:
    if options.duration_s is not None:
        return options
    interval_s = min(options.interval_s, DEFAULT_DURATION_S / 20)
    return replace(options, duration_s=DEFAULT_DURATION_S, interval_s=interval_s)


def cost_warning(engine: StraceEngine, duration_s: float) -> str:
    """What strace costs the target, said before it begins."""
    stacks = "; where it maps memory its stack is walked too, for milliseconds" if engine.has_stacks else ""
    return (
        "warning: strace stops a thread twice at every system call, for tens of microseconds"
        f"{stacks}: the target runs slower for {format_duration(duration_s)}"
    )


# Recorded output


def open_inputs(options: TraceOptions) -> Replay:
    """What other programs have recorded, strace's output or that of pmap, told apart by how it begins.

    Raises:
        NativeleakError: A file cannot be read, or is neither.
    """
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
