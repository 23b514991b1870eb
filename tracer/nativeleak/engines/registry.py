"""The engines: one row each, in the order in which ``--engine auto`` tries them.

``--engine``'s choices, ``auto``, ``doctor`` and the table in docs/engines.md come from here. The module of an engine is
imported when the engine is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nativeleak.errors import CannotTraceError, NativeleakError, NoTargetError, UsageError
from nativeleak.model import Coverage, StackCoverage, TargetInfo
from nativeleak.process import procfs
from nativeleak.process.check import check_target
from nativeleak.process.shortage import refuse_shortage

if TYPE_CHECKING:  # readers of recordings want the coverage alone
    from nativeleak.engines.base import Engine, Sink
    from nativeleak.engines.options import TraceOptions

AUTO: Final = "auto"
"""The value of ``--engine`` that takes the first engine that works."""

# Source: include/uapi/linux/capability.h.
_CAP_SYS_PTRACE: Final = 19
_CAP_SYS_ADMIN: Final = 21
_CAP_PERFMON: Final = 38
_CAP_BPF: Final = 39


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine.

    Attributes:
        name: The value of ``--engine``.
        backend: ``tool.backend`` of the report.
        coverage: What it can see.
        open: Gets the options, facts of the targets and the sink; opens the engine, or raises ``NativeleakError``.
        obstacle: Gets the PIDs, or none where the question is about the machine only; returns why ``auto`` does not
            take the engine here, empty where nothing is known before it is tried. Raises ``NoTargetError``.
        default_duration_s: Length of a trace without ``--duration``; None: until it is interrupted.
        warning: Its cost for the target, stated before the trace begins; ``{duration}`` stands for how long.
        any_width: Whether it can trace 32-bit processes.
        runs_bpf: Whether it runs BPF programs: the checks of ``doctor`` are about those.
        unaffected_by: Names of these checks whose failure does not stop this engine.
    """

    name: str
    backend: str
    coverage: Coverage
    open: Callable[[TraceOptions, Sequence[TargetInfo], Sink], Engine]
    obstacle: Callable[[Sequence[int]], str]
    default_duration_s: float | None = None
    warning: str = ""
    any_width: bool = False
    runs_bpf: bool = False
    unaffected_by: frozenset[str] = frozenset()


def _open_libbpf(options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> Engine:
    from nativeleak.engines.bpf.engine import BpfEngine
    from nativeleak.engines.bpf.kernel.programs import Loader

    return BpfEngine(options, targets, sink, Loader.LIBBPF)


def _open_bcc(options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> Engine:
    from nativeleak.engines.bpf.engine import BpfEngine
    from nativeleak.engines.bpf.kernel.programs import Loader
    from nativeleak.engines.options import Unwind

    if options.engine != AUTO and options.unwind is Unwind.TABLES:
        raise UsageError(
            "--unwind tables does not go with --engine bcc", "its stacks go by frame pointers: --unwind fp"
        )
    return BpfEngine(options, targets, sink, Loader.BCC)


def _open_strace(options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> Engine:
    from nativeleak.engines.strace.engine import StraceEngine  # what most traces do without: 2 MB

    return StraceEngine(options, targets, sink)


def _open_pmap(options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> Engine:
    from nativeleak.engines.pmap.engine import PmapEngine  # what most traces do without: 2 MB

    return PmapEngine(options, targets, sink)


def _no_obstacle(_pids: Sequence[int]) -> str:
    return ""


def _obstacle_of_bcc(_pids: Sequence[int]) -> str:
    """Whether it is worth a second to let BCC compile the BPF programs."""
    from nativeleak.engines.bpf.kernel.loaders.bcc import has_bcc  # what most traces do without

    held = _capabilities()
    if not held >> _CAP_SYS_ADMIN & 1 and not (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1):
        return "no CAP_BPF and CAP_PERFMON"
    try:
        is_there = has_bcc()
    except OSError as error:  # an interpreter that may not be started again
        refuse_shortage(error, "tracing")
        is_there = False
    return "" if is_there else "python3-bpfcc is not installed"


def _obstacle_of_strace(pids: Sequence[int]) -> str:
    """``auto`` takes strace only for those who may trace every process.

    It holds the target up, and a user without rights has not asked for that.
    """
    from nativeleak.engines.strace.engine import refuse_traced  # what most traces do without
    from nativeleak.engines.strace.program import find_strace

    def look() -> None:
        find_strace()
        if not _capabilities() >> _CAP_SYS_PTRACE & 1:
            raise CannotTraceError("it slows the target down, and without being asked for it is taken by root only")
        for pid in pids:
            check_target(pid, any_width=True)
            refuse_traced(pid)

    return _why(look)


def _obstacle_of_pmap(pids: Sequence[int]) -> str:
    from nativeleak.engines.pmap.reading import read_smaps  # what most traces do without

    def look() -> None:
        for pid in pids:
            check_target(pid, any_width=True)
            read_smaps(pid)

    return _why(look)


def _why(look: Callable[[], None]) -> str:
    """Why something cannot be done, without the name of the attempt; empty where it can.

    Raises:
        MendableError: This process lacks descriptors or memory.
        NoTargetError: A target is not there.
    """
    try:
        look()
    except NoTargetError:
        raise
    except NativeleakError as error:
        refuse_shortage(error, "tracing")
        return error.what.rpartition(" failed: ")[2]
    return ""


def _capabilities() -> int:
    """Our effective capabilities as a mask, 0 where they cannot be read."""
    try:
        return int(procfs.read_status(os.getpid()).get("CapEff", "0"), 16)
    except (ValueError, CannotTraceError):
        return 0


ENGINES: Final = (
    EngineSpec("libbpf", "bpf-libbpf", Coverage(), _open_libbpf, _no_obstacle, runs_bpf=True),
    EngineSpec(
        "bcc",
        "bpf-bcc",
        Coverage(not_available="Java frames, and native stacks of code without frame pointers"),
        _open_bcc,
        _obstacle_of_bcc,
        runs_bpf=True,
        unaffected_by=frozenset({"kernel", "BTF", "BPF programs"}),
    ),
    EngineSpec(
        "strace",
        "strace",
        Coverage(
            StackCoverage.SOME,
            has_blocks=False,
            has_unmappers=False,
            not_available="single allocations and Java frames",
            hits="system calls read",
        ),
        _open_strace,
        _obstacle_of_strace,
        any_width=True,
        default_duration_s=60.0,
        warning="strace stops a thread twice at every system call, for tens of microseconds; where it maps memory its"
        " stack is walked too, for milliseconds: the target runs slower for {duration}",
    ),
    EngineSpec(
        "pmap",
        "pmap",
        Coverage(
            StackCoverage.NONE,
            has_threads=False,
            has_blocks=False,
            has_unmappers=False,
            not_available="call stacks, threads and single allocations",
            hits="readings of all mappings",
        ),
        _open_pmap,
        _obstacle_of_pmap,
        any_width=True,
    ),
)
"""Best first."""

NAMES: Final = (AUTO, *(spec.name for spec in ENGINES))
"""Values of ``--engine``."""


def candidates(wanted: str) -> tuple[EngineSpec, ...]:
    """The engines to try for a value of ``--engine``, in order."""
    return ENGINES if wanted == AUTO else (by_name(wanted),)


def by_name(name: str) -> EngineSpec:
    """The engine that ``--engine NAME`` asks for.

    Raises:
        KeyError: There is none.
    """
    return {spec.name: spec for spec in ENGINES}[name]


def coverage_of(backend: str) -> Coverage:
    """What an engine can see, by ``tool.backend`` of the report; that of the best one for an unknown backend."""
    return next((spec.coverage for spec in ENGINES if spec.backend == backend), Coverage())


def fallback_notice(spec: EngineSpec, why: str) -> str:
    """The one line that says which engine ``auto`` takes in place of the first."""
    lost = spec.coverage.not_available
    return f"falling back to {spec.name} ({why}){f'; not available: {lost}' if lost else ''}"
