"""Date lines between listings: what ``date`` prints, ISO 8601, seconds since 1970.

Scope: a line that is a date and nothing else. Month names of other languages are not read.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

_MONTH_NAMES: Final = "jan feb mar apr may jun jul aug sep oct nov dec"
_MONTHS: Final = {_MONTH_NAMES[i : i + 3]: i // 4 + 1 for i in range(0, len(_MONTH_NAMES), 4)}
_EPOCH: Final = re.compile(r"\W*(1\d{9})(?:\.(\d{1,9}))?\W*")
_ISO: Final = re.compile(
    r"\W*(\d{4})[-/](\d\d)[-/](\d\d)[T_ ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?\W*"
)
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")
_WORDS: Final = re.compile(r"\W*(?:[A-Z][a-z]{2,8},? )?[\w ,:.+-]{12,60}\W*")
_MAX_LINE: Final = 80


def parse_date_line(line: str) -> float | None:
    """Seconds since 1970 of a line that is a date, as UTC where it names no zone; None for any other line."""
    if len(line) > _MAX_LINE:
        return None
    try:
        if epoch := _EPOCH.fullmatch(line):
            return float(f"{epoch[1]}.{epoch[2] or 0}")
        if iso := _ISO.fullmatch(line):
            year, month, day, hour, minute = map(int, iso.groups()[:5])
            moment = datetime(year, month, day, hour, minute, int(iso[6] or 0), tzinfo=_zone(iso[8]))
            return moment.timestamp() + float(f"0.{iso[7] or 0}")
        return _of_date(line) if _WORDS.fullmatch(line) else None
    except (ValueError, OverflowError):
        return None


def _zone(text: str | None) -> timezone:
    if text is None or text in ("Z", "UTC"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _of_date(line: str) -> float | None:
    """``Wed Nov 25 14:30:21 CET 2026``, ``Wed 25 Nov 2026 02:30:21 PM CET``."""
    words = line.replace(",", " ").strip("# =-*").split()
    clock = next((found for word in words if (found := _CLOCK.fullmatch(word))), None)
    month = next((_MONTHS[word[:3].lower()] for word in words if word[:3].lower() in _MONTHS and word.isalpha()), None)
    year = next((int(word) for word in words if re.fullmatch(r"(?:19|20)\d\d", word)), None)
    day = next((int(word) for word in words if re.fullmatch(r"\d{1,2}", word)), None)
    if clock is None or month is None or year is None or day is None:
        return None
    hour = int(clock[1]) % 12 + 12 * ("PM" in words) if "AM" in words or "PM" in words else int(clock[1])
    return datetime(year, month, day, hour, int(clock[2]), int(clock[3] or 0), tzinfo=UTC).timestamp()
