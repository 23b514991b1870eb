"""Progress as plain lines on stderr: one at the start, one a minute, and one per event."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Self

from nativeleak.engines.base import Progress
from nativeleak.reports.names import printable
from nativeleak.session.reporter import Look
from nativeleak.units import format_bytes, format_duration

_LINE_EVERY_S: Final = 60.0


class LineProgress:
    """Progress as plain lines; see ``Reporter``."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._next_s = _LINE_EVERY_S
        self._duration_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """One important line on stderr, printed also with ``quiet``."""
        print(f"nativeleak: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """One line on an event."""
        self.say(text)

    def attached(self, headline: str, details: Sequence[str], duration_s: float | None) -> None:
        """The window is open."""
        self._duration_s = duration_s
        self.say(headline)
        if self._verbose:
            for detail in details:
                self.say(detail)

    def tick(self, elapsed_s: float, look: Look) -> None:
        """Print progress, once a minute."""
        if elapsed_s >= self._next_s:
            self._next_s += _LINE_EVERY_S
            self.say(progress_line(elapsed_s, self._duration_s, look(0)))


def progress_line(elapsed_s: float, duration_s: float | None, progress: Progress) -> str:
    """Elapsed and whole time, RSS, outstanding, in one line."""
    held = f"outstanding {format_bytes(progress.outstanding_bytes)}"
    if progress.outstanding_count is not None:
        held += f" in {progress.outstanding_count:,} allocations"
    if progress.n_sites is not None:
        held += f" at {progress.n_sites:,} sites"
    return f"{times(elapsed_s, duration_s)}, RSS {format_bytes(progress.rss_bytes)}, {held}"


def times(elapsed_s: float, duration_s: float | None) -> str:
    """Elapsed time, and the whole duration if it is known."""
    elapsed = format_duration(int(elapsed_s))
    return elapsed if duration_s is None else f"{elapsed} of {format_duration(duration_s)}"


def share_progress(doing: str, every_s: float = 5.0) -> Callable[[int, int], None]:
    """Progress of work whose size is known: a line on stderr every few seconds, none for short work.

    Args:
        doing: What is done, as the line begins.
        every_s: Seconds between two lines.

    Returns:
        To be called with the bytes done and the bytes to do.
    """
    started = last = time.monotonic()

    def tell(done: int, todo: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every_s or not done:
            return
        last = now
        left_s = (now - started) * max(0, todo - done) / done
        print(  # noqa: T201
            f"nativeleak: {doing}: {format_bytes(done)} of {format_bytes(todo)}, {format_duration(left_s)} to go",
            file=sys.stderr,
            flush=True,
        )

    return tell
