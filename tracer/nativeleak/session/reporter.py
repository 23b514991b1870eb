"""The user's side of a trace: the seam between the loop and what stands on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nativeleak.engines.base import Progress

Look = Callable[[int], Progress]
"""Gives the trace as it is now, with so many rows; costs something, so it is asked for only when it is shown."""


class Reporter(Protocol):
    """Shows how a trace goes, whatever the engine."""

    def say(self, text: str) -> None:
        """One line of progress."""

    def warn(self, text: str) -> None:
        """One line that is not to be missed."""

    def note(self, text: str) -> None:
        """One line on something that happened."""

    def attached(self, headline: str, details: Sequence[str], duration_s: float | None) -> None:
        """The window is open.

        Args:
            headline: What is traced, for how long, into which file.
            details: How, for those who asked to know.
            duration_s: How long it will be; None: until it is interrupted.
        """

    def tick(self, elapsed_s: float, look: Look) -> None:
        """Called several times a second."""
