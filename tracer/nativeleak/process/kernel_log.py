"""The kernel's own log: its records from now on, and what it says about probes that it could not remove.

Source: Documentation/ABI/testing/dev-kmsg; ``uprobe_unregister_nosync`` in kernel/events/uprobes.c.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nativeleak.closing import Closing

KMSG: Final = Path("/dev/kmsg")
_RECORD_BYTES: Final = 8192
"""Longest record of the log. Source: CONSOLE_EXT_LOG_MAX in kernel/printk/internal.h."""
_LEAKED: Final = b"failed to unregister, leaking uprobe"


def count_leaked_uprobes() -> int | None:
    """Probes of any tracer that the kernel has kept since it started, as far as its log goes back.

    Returns:
        None where the log cannot be read.
    """
    try:
        log = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    n = 0
    try:
        while True:
            try:
                n += _LEAKED in os.read(log, _RECORD_BYTES)
            except BlockingIOError:
                return n
            except BrokenPipeError:
                continue  # records were overwritten meanwhile: the next read goes on after them
    except OSError:
        return None
    finally:
        os.close(log)


class LogRecords(Closing):
    """Records that the kernel logs from now on; a context manager. Nothing where its buffer may not be read.

    Args:
        path: The buffer.

    Attributes:
        n_lost: How often records were overwritten before they were read.
    """

    def __init__(self, path: Path = KMSG) -> None:
        self.n_lost = 0
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def is_readable(self) -> bool:
        """Whether the buffer may be read."""
        return self._fd >= 0

    def records(self) -> Iterator[bytes]:
        """Records since the last call, as the buffer gives them: ``level,number,microseconds,flags;text``."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BrokenPipeError:
                self.n_lost += 1
                continue  # the next read goes on after what was overwritten
            except OSError:
                return
            if not record:
                return
            yield record

    def close(self) -> None:
        """Close the buffer."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
