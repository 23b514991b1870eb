"""The recorder's own priority: where cores are scarce its target comes first, until the trace has to end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

_STEP: Final = 10
"""A tenth of the weight that the scheduler gives to others. Source: sched_prio_to_weight in kernel/sched/core.c."""
_LOWEST: Final = 19


@contextlib.contextmanager
def lowered_priority(*, wanted: bool, for_s: float | None = None) -> Iterator[Callable[[], None]]:
    """Ten steps nicer meanwhile, if that is wanted, and what was before after that, where we may.

    The end of a trace does not wait for a busy target: yields what gives the old priority back early, which a signal
    handler may call.

    Args:
        wanted: Without it nothing is changed.
        for_s: Seconds after which SIGALRM gives the old priority back; None for no such time.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if not wanted:
        yield lambda: None
        return

    def give_back() -> None:
        _set(before)

    with contextlib.ExitStack() as stack:
        stack.callback(give_back)
        _set(min(_LOWEST, before + _STEP))
        if for_s is not None:
            stack.enter_context(_alarm(for_s, give_back))
        yield give_back


@contextlib.contextmanager
def _alarm(after_s: float, call: Callable[[], None]) -> Iterator[None]:
    """Call something from a signal handler after a time; what was set before is set again at the end."""
    handler = signal.signal(signal.SIGALRM, lambda *_: call())
    timer = signal.setitimer(signal.ITIMER_REAL, max(after_s, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def _set(priority: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, priority)
