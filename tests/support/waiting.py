"""Waiting for a sign from another process, always with a limit: lines of a pipe, conditions, how long at most."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("NATIVELEAK_TEST_PATIENCE", "1"))
"""How many times longer than usual everything may take: on an emulated machine."""

START_TIMEOUT_S = 30.0 * PATIENCE
"""Until a target is READY or a trace is attached; a JVM on a busy machine takes seconds."""

COMMAND_TIMEOUT_S = 60.0 * PATIENCE
"""Until a command such as ``report`` has ended."""

ANSWER_TIMEOUT_S = 120.0 * PATIENCE
"""Until a target has done its work; under a tracer the largest takes tens of seconds."""


def patient(timeout_s: float) -> float:
    """A limit on this machine now: where more tasks want to run than there are processors, everything takes longer."""
    return timeout_s * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class TargetError(AssertionError):
    """A target or a trace did not do what the tests count on; the text carries what it printed."""


class LineReader:
    """Lines from a pipe, each with a limit on how long it may take."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def readline(self, timeout_s: float) -> str | None:
        """Return the next line without its newline, None at the end of the stream.

        Raises:
            TimeoutError: No whole line came in ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"no line in {timeout_s} s")
            chunk = os.read(self._fd, 1 << 20)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        """Stop watching; the pipe itself is its owner's."""
        self._selector.close()


def eventually(condition: Callable[[], object], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until something that gives no sign of its own has come about.

    Raises:
        TargetError: It has not, in ``patient(timeout_s)``.
    """
    timeout_s = patient(timeout_s)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TargetError(f"{what}: not in {timeout_s:.0f} s")
        time.sleep(0.01)
