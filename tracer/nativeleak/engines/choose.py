"""Which engine traces: the list that ``--engine auto`` goes down, and what each needs.

A new engine plugs in here and in ``start.py``. One that runs our BPF programs is a ``Loader`` of ``BpfEngine``; one
that watches from user space is a ``WatchEngine`` (``watched.py``).
"""

from __future__ import annotations

import os
from typing import Final

from nativeleak.engines.bpf.loaders.bcc import has_bcc
from nativeleak.engines.names import LOST, ORDER, EngineName
from nativeleak.engines.strace.program import find_strace
from nativeleak.errors import CannotTraceError
from nativeleak.target import procfs

_CAP_SYS_PTRACE: Final = 19
"""Source: include/uapi/linux/capability.h."""


def candidates(wanted: EngineName) -> tuple[EngineName, ...]:
    """The engines to try, in order."""
    return ORDER if wanted is EngineName.AUTO else (wanted,)


def check_bcc() -> None:
    """Make sure that BCC is there to compile the BPF programs.

    Raises:
        CannotTraceError: It is not installed.
    """
    if not has_bcc():
        raise CannotTraceError(
            "loading the BPF programs by BCC failed: python3-bpfcc is not installed",
            "apt-get install python3-bpfcc, or take another engine: --engine auto",
        )


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
            "tracing by strace failed: it slows the target down, and without being asked for it is taken by root only",
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
