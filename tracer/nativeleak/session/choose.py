"""From options to a recording: by the engine that is asked for, by the best that works here, or of recorded output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from nativeleak.engines.options import TraceOptions
from nativeleak.engines.registry import AUTO, EngineSpec, candidates, fallback_notice
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError, NoTargetError, OwnHeapError
from nativeleak.process.namespaces import max_open_files
from nativeleak.process.shortage import refuse_shortage
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded, Session

_OWN_HEAP: Final = "no malloc in this process: its runtime has a heap of its own, so only mmap and brk are recorded"


def run_trace(options: TraceOptions, reporter: Reporter, notice: str = "") -> Recorded:
    """Trace by the engine asked for; by ``auto`` the best that works, said in one line where it is not the first.

    Args:
        options: What to trace.
        reporter: Told of how it goes.
        notice: Said at the start, unless the engine is not the first.

    Raises:
        NativeleakError: No engine works here; the error is the first one's.
    """
    if options.inputs:
        from nativeleak.session.replay import open_inputs  # what most traces do without: 2 MB

        return open_inputs(options, reporter).run()
    is_forced = options.engine != AUTO
    failures: list[CannotTraceError] = []
    max_open_files()
    for spec in candidates(options.engine):
        if not is_forced and (why := _obstacle(spec, options.pids)):
            failures.append(
                CannotTraceError(f"tracing by {spec.name} failed: {why}", f"ask for it: --engine {spec.name}")
            )
            continue
        notice = fallback_notice(spec, failures[0].what) if failures else notice
        session = Session(_bounded(options, spec), spec, reporter, notice)
        try:
            return session.run()
        except NoTargetError:
            raise
        except OwnHeapError:
            if options.maps_only or len(options.pids) > 1:
                raise
            return run_trace(replace(options, maps_only=True), reporter, _OWN_HEAP)
        except (NativeleakError, OSError, MemoryError, ImportError, RuntimeError) as error:
            # Another engine would lack the same descriptors or memory.
            refuse_shortage(error, "tracing", has_begun=session.has_begun)
            if is_forced or not isinstance(error, CannotTraceError) or isinstance(error, MendableError):
                raise
            if session.has_begun:
                raise
            failures.append(error)
    raise failures[0]


def _obstacle(spec: EngineSpec, pids: Sequence[int]) -> str:
    """Why ``auto`` does not take an engine; empty where nothing is known.

    Raises:
        MendableError: This process lacks descriptors or memory to find out.
        NoTargetError: A target is not there.
    """
    try:
        return spec.obstacle(pids)
    except (OSError, MemoryError) as error:
        refuse_shortage(error, "tracing")
        raise


def _bounded(options: TraceOptions, spec: EngineSpec) -> TraceOptions:
    """With the duration that the engine has where none is given, and snapshots enough for it."""
    duration_s = spec.default_duration_s
    if options.duration_s is not None or duration_s is None:
        return options
    return replace(options, duration_s=duration_s, interval_s=min(options.interval_s, duration_s / 20))
