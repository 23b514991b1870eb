"""Which engine traces: the list that ``--engine auto`` goes down, and what each needs.

A new engine plugs in here and in ``start.py``. One that runs our BPF programs is a ``Loader`` of ``Programs``; one
that watches from user space is a ``WatchEngine`` (``watched.py``).
"""

from __future__ import annotations

import os
from typing import Final

from nativeleak.engines.bpf.kernel.loaders.bcc import has_bcc
from nativeleak.engines.names import LOST, ORDER, EngineName
from nativeleak.errors import CannotTraceError
from nativeleak.process import procfs

# Source: include/uapi/linux/capability.h.
_CAP_SYS_PTRACE: Final = 19
_CAP_SYS_ADMIN: Final = 21
_CAP_PERFMON: Final = 38
_CAP_BPF: Final = 39


def candidates(wanted: EngineName) -> tuple[EngineName, ...]:
    """The engines to try, in order."""
    return ORDER if wanted is EngineName.AUTO else (wanted,)


def check_bcc() -> None:
    """Make sure that it is worth a second to let BCC compile the BPF programs.

    Raises:
        CannotTraceError: It is not installed, or we may not load what it makes.
    """
    held = _capabilities()
    if not held >> _CAP_SYS_ADMIN & 1 and not (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1):
        raise CannotTraceError("loading by BCC failed: no CAP_BPF and CAP_PERFMON", "run as root")
    try:
        is_there = has_bcc()
    except OSError:  # an interpreter that may not be started again
        is_there = False
    if not is_there:
        raise CannotTraceError("loading by BCC failed: python3-bpfcc is not installed", "apt-get install python3-bpfcc")


def check_strace(*, is_forced: bool) -> None:
    """Make sure that strace may be used here.

    ``auto`` takes it only for those who may trace every process: it holds the target up, and a user who has no rights
    has not asked for that.

    Raises:
        CannotTraceError: It is not installed, or was not asked for.
    """
    from nativeleak.engines.strace.program import find_strace  # what most traces do without

    find_strace()
    if not is_forced and not may_trace_all():
        raise CannotTraceError(
            "tracing by strace failed: it slows the target down, and without being asked for it is taken by root only",
            "ask for it: --engine strace",
        )


def may_trace_all() -> bool:
    """Whether this process has CAP_SYS_PTRACE."""
    return bool(_capabilities() >> _CAP_SYS_PTRACE & 1)


def _capabilities() -> int:
    """Our effective capabilities as a mask, 0 where they cannot be read."""
    try:
        return int(procfs.read_status(os.getpid()).get("CapEff", "0"), 16)
    except (ValueError, CannotTraceError):
        return 0


def fallback_notice(engine: EngineName, why: str) -> str:
    """The one line that says what ``auto`` has fallen to."""
    return f"engine {engine}, since {why}; lost by it: {LOST[engine]}"
