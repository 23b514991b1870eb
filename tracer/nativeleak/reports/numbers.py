"""Numbers of a report in words: rates, intervals, shares, counts."""

from __future__ import annotations

from nativeleak.analysis.finding import Finding
from nativeleak.analysis.growth import Growth
from nativeleak.units import format_bytes


def held_bytes(finding: Finding) -> int:
    """What a finding has in memory, as far as it was measured; else its outstanding bytes."""
    return finding.outstanding_bytes if finding.resident_bytes is None else finding.resident_bytes


def per_minute(growth: Growth) -> str:
    """Bytes a minute with a sign."""
    return signed(growth.slope_bytes_per_s * 60)


def signed(n_bytes: float) -> str:
    """Bytes with a sign, where there are any."""
    return ("+" if n_bytes > 0 else "") + format_bytes(n_bytes)


def interval_text(growth: Growth) -> str:
    """The 95 % interval in bytes a minute, in parentheses; empty where it is one number."""
    low, high = growth.low_bytes_per_s * 60, growth.high_bytes_per_s * 60
    return "" if low == high else f"({format_bytes(low)} to {format_bytes(high)})"


def percent(value: float) -> str:
    """A percentage for people: without exponent, above 1,000 % a factor."""
    if value >= 1000:
        return f"{value / 100:,.0f} times"
    if 0 < value < 0.05:
        return "<0.1 %"
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def count(n: int, noun: str) -> str:
    """A number and its noun."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
