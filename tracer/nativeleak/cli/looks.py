"""Looks at the targets before and after a trace: by children, so that the recorder loads nothing for them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final, Self

from nativeleak import children
from nativeleak.cli.final_report import limiting
from nativeleak.engines.options import TraceOptions
from nativeleak.process.cgroups import tightest_shared_group
from nativeleak.process.shortage import describe_room
from nativeleak.session.signals import interrupts
from nativeleak.units import format_bytes, format_duration

_LEAST_BYTES: Final = 80 << 20
"""What a look at a small heap takes: measured 50 MiB resident, 64 to 80 MiB of data (RLIMIT_DATA).

Each recorded block adds 100 bytes: measured 140 MiB resident at a million.
"""
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}
_MAX_WHY: Final = 300
_TICK_S: Final = 0.1
_END_S: Final = 5.0
"""For a look to end in once it was asked: it leaves the recording as it was."""
_ENDED: Final = "the look was ended early, by Ctrl-C or another signal"


def room_for_a_look(options: TraceOptions) -> tuple[int, str]:
    """The most memory of a look, 0 for as much as it wants; and why there is too little, empty where there is enough.

    In a memory group that a target shares the look gets what is free, so that it never pushes the target out.
    """
    bound_bytes = options.budget.max_memory_bytes
    least = f"a look takes at least {format_bytes(_LEAST_BYTES)}"
    if bound_bytes and bound_bytes < _LEAST_BYTES:
        return bound_bytes, f"{least}, more than --max-memory {format_bytes(bound_bytes)}"
    group = tightest_shared_group(options.pids)
    if group is None:
        return bound_bytes, ""
    if group.room_bytes < _LEAST_BYTES:
        return bound_bytes, f"{least}, and {describe_room(group)}, which the target shares"
    return min(bound_bytes or group.room_bytes, group.room_bytes), ""


class EarlyEnd:
    """Ctrl-C during looks ends them alone, and what follows is done; once more ends the program at once.

    A context manager. It looks at nothing more once it was asked to end.

    Attributes:
        is_asked: Whether a signal asked for it.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._child: children.Process[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(interrupts(self._ask, self._kill))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, child: children.Process[bytes] | None) -> None:
        """The look that a signal ends; None where there is none."""
        self._child = child
        if child is not None and self.is_asked:
            child.terminate()

    def _ask(self) -> None:
        self.is_asked = True
        if self._child is not None:
            self._child.terminate()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()


def look(
    module: str, arguments: Sequence[str], timeout_s: float, bound_bytes: int, early: EarlyEnd | None = None
) -> tuple[bytes, str]:
    """Run a module of ours in a process of its own, which Ctrl-C on the terminal does not reach.

    Args:
        module: Its name.
        arguments: What it gets.
        timeout_s: It is ended then: asked first, and killed where it does not end.
        bound_bytes: The most memory that it may take; 0 for any.
        early: Ends it when it is asked to; None where Ctrl-C ends the program.

    Returns:
        What it printed, and why it failed; empty where it did not.
    """
    if early is not None and early.is_asked:
        return b"", _ENDED
    try:
        process = children.start(
            children.python_module(module, *arguments),
            env=children.environment(**_ENVIRONMENT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=limiting(bound_bytes) if bound_bytes else None,
            process_group=0,
        )
    except OSError as error:
        return b"", f"the look could not be started: {error.strerror}"
    early = early or EarlyEnd()
    early.take(process)
    try:
        printed, errors, is_late = _finish(process, timeout_s, early)
    finally:
        early.take(None)
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode and early.is_asked:
        return b"", _ENDED
    if process.returncode and is_late:
        return b"", f"the look took longer than {format_duration(timeout_s)}"
    if process.returncode < 0:
        number = -process.returncode
        return b"", f"the look was ended by {signal.strsignal(number) or f'signal {number}'}"
    if process.returncode:
        said = errors.decode("utf-8", "replace").strip().splitlines()
        return b"", f"the look failed: {said[-1][:_MAX_WHY]}" if said else f"it ended with status {process.returncode}"
    return printed, ""


def _finish(process: children.Process[bytes], timeout_s: float, early: EarlyEnd) -> tuple[bytes, bytes, bool]:
    """What it printed and its errors, and whether it was ended because its time was over."""
    deadline, is_late = time.monotonic() + timeout_s, False
    while True:
        try:
            return *process.communicate(timeout=_TICK_S), is_late
        except subprocess.TimeoutExpired:
            pass
        if early.is_asked or is_late:
            if time.monotonic() > deadline:
                process.kill()
            deadline = min(deadline, time.monotonic() + _END_S)
        elif time.monotonic() >= deadline:
            process.terminate()
            is_late, deadline = True, time.monotonic() + _END_S
