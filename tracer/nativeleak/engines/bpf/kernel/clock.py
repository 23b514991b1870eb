"""The kernel's clock."""

from __future__ import annotations

import time
from typing import Final

_CLOCK_MONOTONIC_COARSE: Final = 6
"""Source: include/uapi/linux/time.h. The kernel's tick moves it on, so its resolution is the length of a tick."""


def read_tick_ns() -> int:
    """Nanoseconds from one tick of the kernel's clock (``jiffies``) to the next; 0 where it does not say."""
    try:
        return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
    except OSError:
        return 0
