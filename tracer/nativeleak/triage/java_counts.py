"""A verdict about zlib streams that Java holds.

Scope: a rule over one ledger, as in ``verdicts``. The number is the JVM's own; the bytes are those of zlib's usual
settings.

Source: deflateInit2 with windowBits 15 and memLevel 8 (zlib 1.2.11 to 1.3), measured with glibc 2.36: a Deflater takes
268,256 bytes in 6 blocks; inflateInit2: a state of 7,168 bytes, and a window of 32 KiB from the first output on.
"""

from __future__ import annotations

from typing import Final

from nativeleak.triage.lines import Ledger
from nativeleak.triage.statement import LIKELY, Verdict
from nativeleak.units import format_bytes

_MIN_BYTES: Final = 16 << 20
_MIN_SHARE: Final = 0.15
_DEFLATER_BYTES: Final = 268_256
_INFLATER_BYTES: Final = 40_080


def zlib_streams(ledger: Ledger) -> Verdict | None:
    """Many Deflaters or Inflaters that were not ended."""
    counts = ledger.native_counts
    n_deflaters, n_inflaters = counts.deflater_count or 0, counts.inflater_count or 0
    n_bytes = n_deflaters * _DEFLATER_BYTES + n_inflaters * _INFLATER_BYTES
    if n_bytes < _MIN_BYTES or n_bytes < _MIN_SHARE * ledger.rss:
        return None
    kinds = ((n_deflaters, "Deflater"), (n_inflaters, "Inflater"))
    said = " and ".join(f"{count:,} {name}{'s' if count > 1 else ''}" for count, name in kinds if count)
    at_least = "" if counts.cleaners_whole else "At least "
    return Verdict(
        "zlib-streams",
        LIKELY,
        f"{at_least}{said} that were not ended hold up to {format_bytes(n_bytes)} of native memory.",
        ("counted in the JVM: in use, or dropped and not collected yet; sizes are zlib's usual ones",),
        (
            "Call end(), or close the stream that made them; GZIPOutputStream and the like end their own.",
            f"nativeleak holders -p {ledger.target.pid}    shows which Java objects hold them, now",
        ),
        n_bytes,
    )
