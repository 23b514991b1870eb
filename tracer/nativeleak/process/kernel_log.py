"""What the kernel's log says about probes that it could not remove.

Source: Documentation/ABI/testing/dev-kmsg; ``uprobe_unregister_nosync`` in kernel/events/uprobes.c.
"""

from __future__ import annotations

import os
from typing import Final

_LOG: Final = "/dev/kmsg"
_RECORD_BYTES: Final = 8192
"""Longest record of the log. Source: CONSOLE_EXT_LOG_MAX in kernel/printk/internal.h."""
_LEAKED: Final = b"failed to unregister, leaking uprobe"


def count_leaked_uprobes() -> int | None:
    """Probes of any tracer that the kernel has kept since it started, as far as its log goes back.

    Returns:
        None where the log cannot be read.
    """
    try:
        log = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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
