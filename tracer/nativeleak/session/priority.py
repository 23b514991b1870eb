"""The recorder's own priority: where cores are scarce its target comes first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

_STEP: Final = 10
"""A tenth of the weight that the scheduler gives to others. Source: sched_prio_to_weight in kernel/sched/core.c."""
_LOWEST: Final = 19


@contextlib.contextmanager
def lowered_priority(*, wanted: bool) -> Iterator[None]:
    """Ten steps nicer meanwhile, if that is wanted, and what was before after that, where we may."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if wanted:
        _set(min(_LOWEST, before + _STEP))
    try:
        yield
    finally:
        if wanted:
            _set(before)


def _set(priority: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, priority)
