"""Probes defined by name in tracefs' ``uprobe_events``, for kernels whose perf events cannot make their own.

A definition is the machine's, not the process's: it is not gone with a descriptor, as all else is that we attach. So it
is made just before its perf event is opened and removed right after that is closed, both under a lock; a tracer that is
killed leaves its definitions behind, disabled with its perf events, and ``remove_stale`` takes them away at the next
start. The kernel says which are in use (EBUSY), so that those of other tracers stay.

Source: ``__trace_uprobe_create`` in kernel/trace/trace_uprobe.c for the form; its ``trace_uprobe_release`` for EBUSY.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import perf
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from nativeleak.engines.bpf.kernel.shielded import shielded
from nativeleak.engines.bpf.kernel.system import close_fds

_CONTROL: Final = "uprobe_events"
_PREFIX: Final = "nativeleak_"
_WAIT_S: Final = 5.0
"""For the lock, and for a perf event to be gone after its descriptor is."""
_PAUSE_S: Final = 0.01
_MAX_BYTES: Final = 1 << 22
_numbers: Final = itertools.count(1)
_begun: Final = time.monotonic_ns()


def attach(
    tracefs: Tracefs, prog_fd: int, pid: int, path: str, offset: int, cookie: int, *, at_return: bool
) -> Callable[[], None]:
    """Attach one program to one place of a file in one process; returns what detaches it.

    Raises:
        OSError: As the kernel says; EACCES or EPERM for all but root.
    """
    control = tracefs.open(_CONTROL, os.O_WRONLY | os.O_APPEND)
    try:
        with _locked(control):
            name = _define(control, path, offset, at_return=at_return)
            try:
                event_id = tracefs.event_id(name)
                fds = shielded(lambda: _run(prog_fd, perf.open_tracepoint_of(pid, event_id), cookie))
            except OSError:
                _remove(control, name)
                raise
    except OSError:
        os.close(control)
        raise
    return functools.partial(_detach, control, name, fds)


def can_define(tracefs: Tracefs) -> bool:
    """Whether probes can be defined here: by root, on a kernel that has them."""
    try:
        os.close(tracefs.open(_CONTROL, os.O_WRONLY | os.O_APPEND))
    except OSError:
        return False
    return True


def remove_stale(tracefs: Tracefs) -> int:
    """Remove the definitions that tracers have left behind which were killed; returns how many.

    Raises:
        OSError: They may not be looked at, or another tracer keeps the lock.
    """
    names = defined(tracefs)
    if not names:
        return 0
    n = 0
    control = tracefs.open(_CONTROL, os.O_WRONLY | os.O_APPEND)
    try:
        with _locked(control):
            for name in names:
                with contextlib.suppress(OSError):  # EBUSY: a tracer that runs; ENOENT: it has ended just now
                    os.write(control, f"-:{name}".encode())
                    n += 1
    finally:
        os.close(control)
    return n


def defined(tracefs: Tracefs) -> list[str]:
    """Definitions made by any nativeleak: ``GROUP/NAME``.

    Raises:
        OSError: They may not be looked at.
    """
    fd = tracefs.open(_CONTROL, os.O_RDONLY)
    try:
        text = b""
        while len(text) < _MAX_BYTES and (piece := os.read(fd, 1 << 16)):
            text += piece
    finally:
        os.close(fd)
    # p:nativeleak_17_5f/n1 /usr/lib/libc.so.6:0x1234
    words = (line.split(" ", 1)[0] for line in text.decode(errors="replace").splitlines())
    return [word[2:] for word in words if word[:2] in ("p:", "r:") and word[2:].startswith(_PREFIX)]


def _define(control: int, path: str, offset: int, *, at_return: bool) -> str:
    """Define a probe; its name."""
    # The PID for people; two tracers may have the same one, each in a namespace of its own.
    name = f"{_PREFIX}{os.getpid()}_{_begun:x}/n{next(_numbers)}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # By descriptor: the kernel takes a path as far as its first space.
        os.write(control, f"{'r' if at_return else 'p'}:{name} /proc/self/fd/{fd}:{offset:#x}".encode())
    finally:
        os.close(fd)
    return name


def _run(prog_fd: int, event: int, cookie: int) -> list[int]:
    try:
        return perf.run_at_event(prog_fd, event, cookie)
    except OSError:
        os.close(event)  # the definition cannot be removed before
        raise


def _detach(control: int, name: str, fds: Sequence[int]) -> None:
    close_fds(fds)
    try:
        _remove(control, name)
    finally:
        os.close(control)


def _remove(control: int, name: str) -> None:
    """Remove a definition; one that somebody else has removed meanwhile is gone all the same."""
    until_s = time.monotonic() + _WAIT_S
    while True:
        try:
            os.write(control, f"-:{name}".encode())
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < until_s:
                time.sleep(_PAUSE_S)
                continue
            # Somebody else has enabled it by hand: it stays until they are done, and the next start removes it.
            if error.errno not in (errno.ENOENT, errno.EBUSY):
                raise
        return


@contextlib.contextmanager
def _locked(control: int) -> Iterator[None]:
    """Keep other tracers from taking a definition for stale whose perf event is not open yet.

    Raises:
        OSError: EAGAIN: another tracer keeps the lock.
    """
    until_s = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(control, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        fcntl.flock(control, fcntl.LOCK_UN)
