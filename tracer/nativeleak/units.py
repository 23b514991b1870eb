"""Sizes, durations and rates: parses user input and formats output. Imports nothing of ours."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_SIZE_FACTOR: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes for ``4096``, ``64K``, ``16MiB``, ``1.5g``; K, M, G, T are powers of 1,024.

    Raises:
        ValueError: The text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r} (write 4096, 64K or 16MiB)")
    return int(float(match[1]) * _SIZE_FACTOR[match[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds for ``90``, ``90s``, ``10m``, ``1h``, ``1h30m``.

    Raises:
        ValueError: The text is not a duration, or it is zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not text.strip():
        raise ValueError(f"not a duration: {text!r} (write 90s, 10m, 1h or 1h30m)")
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    total_s = days * 86400 + hours * 3600 + minutes * 60 + seconds
    if total_s <= 0:
        raise ValueError(f"a duration must be longer than zero: {text!r}")
    return total_s


def parse_percent(text: str) -> float:
    """Percent for ``2%``, ``2 %``, ``0.5``; 0.0 for ``off``.

    Raises:
        ValueError: The text is neither, or the number is not above 0 and at most 100.
    """
    if text.strip().lower() == "off":
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError(f"not a percentage: {text!r} (write 2%, 0.5% or off)")
    return float(match[1])


_MAX_BYTES: Final = 1 << 1000
"""More fits into no float: damaged files hold numbers of thousands of digits."""


def format_bytes(n_bytes: float) -> str:
    """``1.5 MiB``: three or four significant digits, binary units."""
    value = float(max(-_MAX_BYTES, min(n_bytes, _MAX_BYTES)))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_rate(bytes_per_s: float) -> str:
    """Bytes per second as ``+1.5 MiB/min``, in the unit of time that gives at least 1 KiB."""
    sign = "+" if bytes_per_s > 0 else "-" if bytes_per_s < 0 else ""
    rate = abs(bytes_per_s)
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * factor >= 1024 or unit == "h":
            return f"{sign}{format_bytes(rate * factor)}/{unit}"
    raise AssertionError("unreachable: the last unit always returns")


def format_duration(seconds: float) -> str:
    """``12.5s``, ``4m 05s``, ``1h 30m``, ``2d 03h``."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 and seconds != int(seconds) else f"{seconds:.0f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def excerpt(line: str, n_chars: int = 120) -> str:
    """The beginning of a foreign line, harmless wherever it is shown."""
    return "".join(char if char.isprintable() else "\ufffd" for char in line.strip()[:n_chars])
