"""From options to a trace: the engine that is asked for, or the best that works here, or output recorded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from nativeleak.engines.bpf.kernel.programs import Loader
from nativeleak.engines.choose import candidates, check_bcc, check_strace, fallback_notice
from nativeleak.engines.names import EngineName
from nativeleak.errors import CannotTraceError, MendableError
from nativeleak.recording.writer import RecordingWriter
from nativeleak.session.run import Observer, Trace, TraceOptions

_LOADERS: Final = {EngineName.LIBBPF: Loader.LIBBPF, EngineName.BCC: Loader.BCC}


class Told(Observer, Protocol):
    """Who is told how a trace goes, whatever the engine."""

    def say(self, text: str) -> None:
        """One line of progress."""

    def warn(self, text: str) -> None:
        """One line that is not to be missed."""


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

    @property
    def has_begun(self) -> bool:
        """Whether the window is or was open."""

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
        from nativeleak.session.replay import open_inputs  # what most traces do without: 2 MB

        rerun = open_inputs(options, told)
        rerun.run()
        return rerun
    failures: list[tuple[EngineName, CannotTraceError]] = []
    for engine in candidates(options.engine):
        is_forced = options.engine is not EngineName.AUTO
        tracer: Tracer | None = None
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
) -> Tracer:
    if engine in _LOADERS:
        if engine is EngineName.BCC:
            if not is_forced:
                check_bcc()
            told = _SayFirst(told, fallback_notice(engine, failures[0][1].what)) if failures else told
        return Trace(replace(options, loader=_LOADERS[engine]), told)
    if engine is EngineName.STRACE:
        check_strace(is_forced=is_forced)
    from nativeleak.session.fallback import make_fallback  # what most traces do without: 2 MB

    return make_fallback(engine, options, told, fallback_notice(engine, failures[0][1].what) if failures else "")


class _SayFirst:
    """An observer that has something to say once it is known that the engine works."""

    def __init__(self, told: Told, text: str) -> None:
        self._told = told
        self._text = text

    def attached(self, trace: Trace) -> None:
        """All probes are in place."""
        self._told.warn(self._text)
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

    def warn(self, text: str) -> None:
        """One line that is not to be missed."""
        self._told.warn(text)
