"""What a file says, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nativeleak.units import excerpt, format_bytes


@dataclass(slots=True)
class Reading:
    """One file that was read.

    Attributes:
        kind: ``nmt``, ``heap``, ``alloc``, ``maps``, ``strace`` or ``oom``.
        title: What it is, in words.
        values: Under the names of the interface; None where the file does not say.
        lines: The same for people, one fact a line.
        notes: What is missing, cut or doubtful.
        n_unread: Lines that made no sense.
        first_unread: The first of them.
    """

    kind: str
    title: str
    values: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_unread: int = 0
    first_unread: str = ""

    def miss(self, line: str) -> None:
        """Count a line that makes no sense."""
        self.n_unread += 1
        self.first_unread = self.first_unread or excerpt(line)


def size(value: float | None) -> str:
    """A size for people, or that it is unknown."""
    return "unknown" if value is None else format_bytes(value)


def row(label: str, *values: float | None) -> str:
    """A label with sizes in columns."""
    return f"{label[:28]:<28}" + "".join(f"{size(value):>12}" for value in values)
