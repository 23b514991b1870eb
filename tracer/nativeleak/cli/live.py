"""What the user sees while a trace runs: a live view on a terminal, a line a minute elsewhere. All on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from nativeleak.reports.names import printable
from nativeleak.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from nativeleak.session.run import Trace

_LINE_EVERY_S: Final = 60.0
_VIEW_EVERY_S: Final = 1.0
_RATE_WINDOW_S: Final = 60.0
_N_TOP: Final = 8


class LineProgress:
    """Progress as plain lines: one at the start, one a minute, and what happens."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._next_s = _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            print(f"nativeleak: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201

    def warn(self, text: str) -> None:
        """One line on stderr that is not to be missed: also where progress is not wanted."""
        print(f"nativeleak: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201

    def attached(self, trace: Trace) -> None:
        """All probes are in place and the window is open."""
        self.say(headline(trace))
        if self._verbose:
            self.say(f"allocator probes attached by {trace.collector.engine.mode.value}")
            for note in trace.collector.engine.notes:
                self.say(note)

    def tick(self, trace: Trace) -> None:
        """Called several times a second."""
        if trace.elapsed_s >= self._next_s:
            self._next_s += _LINE_EVERY_S
            self.say(progress_line(trace))

    def note(self, text: str) -> None:
        """Something that the user should know at once."""
        self.say(text)


def headline(trace: Trace) -> str:
    """What is traced, for how long, into which file."""
    targets = ", ".join(f"PID {s.facts.pid} ({s.facts.comm})" for s in trace.collector.targets.values())
    duration_s = trace.options.duration_s
    how_long = f"for {format_duration(duration_s)}" if duration_s else "until Ctrl-C"
    probed = ", ".join(trace.allocators) or "mmap and brk only"
    return f"tracing {targets} {how_long}: {probed}; recording to {trace.options.output}"


def progress_line(trace: Trace) -> str:
    """Elapsed and remaining time, RSS, outstanding, in one line."""
    collector = trace.collector
    collector.read_heap()
    n_bytes, count = collector.heap.outstanding()
    rss_bytes = sum(collector.rss_bytes(state) for state in collector.targets.values())
    return (
        f"{_times(trace)}, RSS {format_bytes(rss_bytes)}, outstanding {format_bytes(n_bytes)} in {count:,} allocations"
        f" at {collector.heap.n_sites:,} sites"
    )


def _times(trace: Trace) -> str:
    elapsed = format_duration(int(trace.elapsed_s))
    if trace.options.duration_s is None:
        return elapsed
    return f"{elapsed} of {format_duration(trace.options.duration_s)}"


class LiveView(LineProgress):
    """A view that is drawn anew every second, with rich; it is gone when the trace ends."""

    def __init__(self, *, verbose: bool = False) -> None:
        super().__init__(verbose=verbose)
        self._live: Live | None = None
        self._drawn_s = 0.0
        self._history: deque[tuple[float, int]] = deque()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def attached(self, trace: Trace) -> None:
        """Begin to draw."""
        from rich.console import Console  # only on a terminal: 14 MB
        from rich.live import Live

        super().attached(trace)
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def tick(self, trace: Trace) -> None:
        """Draw, once a second."""
        now_s = time.monotonic()
        if self._live is None or now_s - self._drawn_s < _VIEW_EVERY_S:
            return
        self._drawn_s = now_s
        trace.collector.read_heap()
        self._history.append((now_s, trace.collector.heap.outstanding()[0]))
        while now_s - self._history[0][0] > _RATE_WINDOW_S:
            self._history.popleft()
        self._live.update(self._draw(trace), refresh=True)

    def note(self, text: str) -> None:
        """A line above the view."""
        if self._live is not None:
            self._live.console.print(f"nativeleak: {printable(text)}", markup=False, highlight=False)
        else:
            super().note(text)

    def _draw(self, trace: Trace) -> Group:
        from rich import box
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        collector = trace.collector
        n_bytes, count = collector.heap.outstanding()
        (first_s, first_bytes), (last_s, last_bytes) = self._history[0], self._history[-1]
        rate = (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else 0.0
        rss_bytes = sum(collector.rss_bytes(state) for state in collector.targets.values())
        facts = Text.assemble(
            (f" {_times(trace)} ", "reverse"),
            "  RSS ",
            (format_bytes(rss_bytes), "bold"),
            "  outstanding ",
            (format_bytes(n_bytes), "bold"),
            f" in {count:,} allocations  growth ",
            (format_rate(rate), "bold"),
        )
        table = Table(box=box.SIMPLE, pad_edge=False)
        for name in ("outstanding", "count"):
            table.add_column(name, justify="right")
        table.add_column("thread")
        table.add_column("call site")
        for key, site_bytes, site_count in collector.heap.by_outstanding(_N_TOP):
            thread, function = collector.headline(key)
            names = Text(printable(thread)), Text(printable(function), overflow="ellipsis")
            table.add_row(format_bytes(site_bytes), f"{site_count:,}", *names)
        parts: list[Text | ProgressBar | Table] = [facts]
        if trace.options.duration_s is not None:
            parts.append(ProgressBar(total=trace.options.duration_s, completed=trace.elapsed_s, width=60))
        return Group(*parts, table)


def make_observer(*, quiet: bool, verbose: bool) -> LineProgress:
    """The live view where stderr is a terminal, lines elsewhere, nothing with ``quiet``."""
    if quiet or not sys.stderr.isatty():
        return LineProgress(quiet=quiet, verbose=verbose)
    return LiveView(verbose=verbose)
