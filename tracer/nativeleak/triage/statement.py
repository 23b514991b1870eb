"""What a verdict is."""

from __future__ import annotations

from dataclasses import dataclass

PROVEN, LIKELY, POSSIBLE = "proven", "likely", "possible"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One statement.

    Attributes:
        id: For scripts.
        certainty: ``proven``, ``likely`` or ``possible``.
        text: One sentence.
        evidence: What it rests on.
        next: What to do, commands among it.
        weight: Bytes at stake; the largest comes first.
    """

    id: str
    certainty: str
    text: str
    evidence: tuple[str, ...]
    next: tuple[str, ...]
    weight: int
