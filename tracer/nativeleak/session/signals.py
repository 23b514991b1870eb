"""Signals that end a trace in order: the first one asks for the end, a second one ends the program at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interrupts(on_first: Callable[[], None], on_second: Callable[[], None] = lambda: None) -> Iterator[int]:
    """While inside, SIGINT, SIGTERM and SIGHUP end the trace; yields a descriptor that they make readable.

    Args:
        on_first: Called in the signal handler.
        on_second: Called there before the program ends.
    """
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    n_signals = 0

    def on_signal(number: int, _frame: object) -> None:
        nonlocal n_signals
        n_signals += 1
        on_first()
        if n_signals > 1:
            # At once: the probes end with this process, and the recording is whole up to its last snapshot.
            on_second()
            os._exit(128 + number)

    old_wakeup = signal.set_wakeup_fd(write_fd)
    old = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield read_fd
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_wakeup)
        os.close(read_fd)
        os.close(write_fd)
