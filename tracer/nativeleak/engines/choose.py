"""Which engine traces: the list that ``--engine auto`` goes down, what each needs, and what is lost by each.

A new engine plugs in here. An engine that runs our BPF programs gives a function like ``open_libbpf``; one that watches
from user space is a ``WatchEngine``, made in ``watch.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nativeleak.engines.bpf import abi
from nativeleak.engines.bpf.engine import AttachMode, BpfEngine, Limits
from nativeleak.engines.names import LOST, ORDER, EngineName
from nativeleak.engines.strace.program import find_strace
from nativeleak.errors import CannotTraceError
from nativeleak.target import procfs

OpenBpf = Callable[[Limits, Callable[[abi.Event], None], Sequence[AttachMode]], BpfEngine]
"""Opens an engine that runs our BPF programs: sizes of the maps, who gets the events, ways of attaching.

What it returns is used as ``BpfEngine`` is. It raises CannotTraceError where it cannot work here, with the remedy."""

_DIST_PACKAGES: Final = ("/usr/lib/python3/dist-packages",)
"""Where Debian has the modules of its own packages: no virtual environment looks there."""
_BCC_FAILED: Final = "loading the BPF programs by BCC failed"
_TAKE_ANOTHER: Final = "take another engine: --engine auto"
_NO_LOADER: Final = "this version of nativeleak has no loader for it"
_CAP_SYS_PTRACE: Final = 19
"""Source: include/uapi/linux/capability.h."""


def open_libbpf(
    limits: Limits, on_event: Callable[[abi.Event], None], modes: Sequence[AttachMode] = tuple(AttachMode)
) -> BpfEngine:
    """The prebuilt programs, by libbpf.

    Raises:
        CannotTraceError: The kernel, its configuration or our rights do not do.
    """
    return BpfEngine(limits, on_event, modes)


def open_bcc(
    limits: Limits,  # noqa: ARG001 (what a loader takes)
    on_event: Callable[[abi.Event], None],  # noqa: ARG001
    modes: Sequence[AttachMode] = tuple(AttachMode),  # noqa: ARG001
) -> BpfEngine:
    """The same programs, compiled on the spot by BCC.

    Raises:
        CannotTraceError: This build has no loader for it.
    """
    raise _no_bcc()


def check_bcc() -> None:
    """Make sure that BCC can be asked to load the programs.

    Raises:
        CannotTraceError: It is not installed, or this version cannot use it.
    """
    raise _no_bcc()


def _no_bcc() -> CannotTraceError:
    if not any(Path(folder, "bcc", "__init__.py").is_file() for folder in (*sys.path, *_DIST_PACKAGES)):
        return CannotTraceError(
            f"{_BCC_FAILED}: python3-bpfcc is not installed", f"apt-get install python3-bpfcc, or {_TAKE_ANOTHER}"
        )
    return CannotTraceError(f"{_BCC_FAILED}: {_NO_LOADER}", _TAKE_ANOTHER)


def candidates(wanted: EngineName) -> tuple[EngineName, ...]:
    """The engines to try, in order."""
    return ORDER if wanted is EngineName.AUTO else (wanted,)


def check_strace(*, is_forced: bool) -> None:
    """Make sure that strace may be used here.

    ``auto`` takes it only for those who may trace every process: it holds the target up, and a user who has no rights
    has not asked for that.

    Raises:
        CannotTraceError: It is not installed, or was not asked for.
    """
    find_strace()
    if not is_forced and not may_trace_all():
        raise CannotTraceError(
            "strace would slow the target down, and is taken without being asked for by root only",
            "ask for it: --engine strace",
        )


def may_trace_all() -> bool:
    """Whether this process has CAP_SYS_PTRACE."""
    try:
        return bool(int(procfs.read_status(os.getpid()).get("CapEff", "0"), 16) >> _CAP_SYS_PTRACE & 1)
    except (ValueError, CannotTraceError):
        return False


def fallen_to(engine: EngineName, why: str) -> str:
    """The one line that says what ``auto`` has fallen to."""
    return f"engine {engine}, since {why}; lost by it: {LOST[engine]}"
