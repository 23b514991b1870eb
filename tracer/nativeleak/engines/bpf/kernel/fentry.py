"""Programs at functions of the kernel (fentry, which the kernel calls trampolines): whether they may be used here."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from nativeleak.engines.bpf.kernel.bpf import load_tracing_program
from nativeleak.engines.bpf.kernel.instructions import R0, leave, set_register
from nativeleak.engines.bpf.kernel.mounts import read_debugfs

_TRACE_FENTRY: Final = 24
_BTF_ID_OF_NO_FUNCTION: Final = 1
"""The first type that a kernel describes is an integer."""


def may_load_fentry() -> bool:
    """Whether the kernel lets us have programs at its functions: some are locked down to refuse them.

    A program at what is no function is tried: a kernel that allows such programs refuses it as wrong, another one as
    forbidden.
    """
    try:
        os.close(load_tracing_program("nl_try", set_register(R0, 0) + leave(), _TRACE_FENTRY, _BTF_ID_OF_NO_FUNCTION))
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES)
    return True


def may_be_preempted() -> bool:
    """Whether the kernel may take the CPU from a program that runs; True where it does not say.

    The kernel leaves out a program at a function that is already running on the same CPU: that is where it was
    preempted, by a thread that makes the same call. Source: ``__bpf_prog_enter_recur`` in kernel/bpf/trampoline.c.
    """
    version = os.uname().version
    if "PREEMPT" not in version:
        return False
    if "PREEMPT_DYNAMIC" not in version:
        return True
    try:
        mode = re.search(r"\((\w+)\)", read_debugfs("sched/preempt"))
    except OSError:
        return True
    return mode is None or mode[1] not in ("none", "voluntary")
