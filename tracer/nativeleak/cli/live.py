"""The live view of a trace on a terminal, on stderr: redrawn every second, with rich."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nativeleak.cli.progress import LineProgress, times
from nativeleak.engines.base import Progress
from nativeleak.reports.names import printable
from nativeleak.session.reporter import Look
from nativeleak.units import format_bytes, format_rate

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

_VIEW_EVERY_S: Final = 1.0
_RATE_WINDOW_S: Final = 60.0
_N_TOP: Final = 8


class LiveView(LineProgress):
    """A view that disappears when the trace ends; see ``Reporter``."""

    def __init__(self, *, verbose: bool = False) -> None:
        super().__init__(verbose=verbose)
        self._live: Live | None = None
        self._drawn_s = 0.0
        self._history: deque[tuple[float, int]] = deque()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def attached(self, headline: str, details: Sequence[str], duration_s: float | None) -> None:
        """Begin to draw."""
        from rich.console import Console  # only on a terminal: 14 MB
        from rich.live import Live

        super().attached(headline, details, duration_s)
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def tick(self, elapsed_s: float, look: Look) -> None:
        """Draw, once a second."""
        now_s = time.monotonic()
        if self._live is None or now_s - self._drawn_s < _VIEW_EVERY_S:
            return
        self._drawn_s = now_s
        progress = look(_N_TOP)
        self._history.append((now_s, progress.outstanding_bytes))
        while now_s - self._history[0][0] > _RATE_WINDOW_S:
            self._history.popleft()
        self._live.update(self._draw(elapsed_s, progress), refresh=True)

    def note(self, text: str) -> None:
        """A line above the view."""
        if self._live is not None:
            self._live.console.print(f"nativeleak: {printable(text)}", markup=False, highlight=False)
        else:
            super().note(text)

    def _draw(self, elapsed_s: float, progress: Progress) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        (first_s, first_bytes), (last_s, last_bytes) = self._history[0], self._history[-1]
        rate = (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else 0.0
        count = progress.outstanding_count
        facts = Text.assemble(
            (f" {times(elapsed_s, self._duration_s)} ", "reverse"),
            "  RSS ",
            (format_bytes(progress.rss_bytes), "bold"),
            "  outstanding ",
            (format_bytes(progress.outstanding_bytes), "bold"),
            "" if count is None else f" in {count:,} allocations",
            "  growth ",
            (format_rate(rate), "bold"),
        )
        parts: list[Text | ProgressBar | Table] = [facts]
        if self._duration_s is not None:
            parts.append(ProgressBar(total=self._duration_s, completed=elapsed_s, width=60))
        return Group(*parts, _table(progress))


def _table(progress: Progress) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("outstanding", "count"):
        table.add_column(name, justify="right")
    table.add_column("thread")
    table.add_column("call site")
    for row in progress.rows:
        names = Text(printable(row.thread)), Text(printable(row.function), overflow="ellipsis")
        table.add_row(format_bytes(row.outstanding_bytes), f"{row.count:,}", *names)
    return table


def make_reporter(*, quiet: bool, verbose: bool) -> LineProgress:
    """The live view if stderr is a terminal, lines otherwise, nothing with ``quiet``."""
    if quiet or not sys.stderr.isatty():
        return LineProgress(quiet=quiet, verbose=verbose)
    return LiveView(verbose=verbose)
