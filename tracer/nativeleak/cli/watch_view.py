"""A watch on standard output: a live screen on a terminal, lines elsewhere, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nativeleak.errors import NativeleakError
from nativeleak.reports.names import printable
from nativeleak.watch import as_json, text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from nativeleak.watch.watcher import Watch

_N_SAID: Final = 4
_N_EVENTS: Final = 200
_WRITE_EVERY_S: Final = 60.0


class LineView:
    """Plain lines, and the page at the end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def begin(self, watch: Watch) -> None:
        """Say what is watched."""
        self.say(text.title(watch))
        self._print(text.heading())

    def look(self, watch: Watch) -> None:
        """Nothing: lines come at their time."""

    def line(self, watch: Watch) -> None:
        """One line."""
        self._print(text.line(watch))

    def say(self, what: str) -> None:
        """On standard error."""
        if not self._quiet:
            self.warn(what)

    def warn(self, what: str) -> None:
        """The same, also with ``quiet``."""
        print(f"nativeleak: {printable(what)}", file=sys.stderr, flush=True)  # noqa: T201

    def end(self, watch: Watch) -> None:
        """The page."""
        self._print("\n" + text.page(watch).rstrip("\n"))

    def event(self, entry: as_json.Entry) -> None:
        """Nothing: what happened is said in words."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    @staticmethod
    def _print(lines: str) -> None:
        print("\n".join(printable(line) for line in lines.split("\n")), flush=True)  # noqa: T201


class JsonView(LineView):
    """One object a line: a reading or a status every ``every_s``, and what happened."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._n_readings = 0

    def begin(self, watch: Watch) -> None:
        """The first object."""
        self.say(text.title(watch))
        self._write(as_json.start(watch))

    def line(self, watch: Watch) -> None:
        """A reading where there is a new one, else a status."""
        is_new, self._n_readings = watch.n_readings > self._n_readings, watch.n_readings
        self._write(as_json.reading(watch) if is_new else as_json.status(watch.status))

    def event(self, entry: as_json.Entry) -> None:
        """An alarm or a note."""
        self._write(entry)

    def end(self, watch: Watch) -> None:
        """The last object."""
        self._write(as_json.end(watch))

    @staticmethod
    def _write(entry: as_json.Entry) -> None:
        print(json.dumps(entry), flush=True)  # noqa: T201


class HtmlView(LineView):
    """One page: written into its file once a minute and at the end, or to standard output at the end.

    Args:
        output: The file; None: standard output.
        redacts: Whether paths, arguments and hosts are hidden.
        quiet: Whether nothing is said on standard error.
    """

    def __init__(self, output: Path | None, *, redacts: bool, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._output, self._redacts = output, redacts
        self._events: deque[tuple[float, str]] = deque(maxlen=_N_EVENTS)
        self._written_s = 0.0
        self._is_told = False

    def begin(self, watch: Watch) -> None:
        """Say what is watched; an unwritable file is an error now."""
        self.say(text.title(watch))
        self._write(watch)

    def line(self, watch: Watch) -> None:
        """The page again, once a minute and after the first reading; a full disk is said once and ends nothing."""
        if self._output is None or (watch.n_readings > 1 and watch.elapsed_s - self._written_s < _WRITE_EVERY_S):
            return
        try:
            self._write(watch)
        except NativeleakError as error:
            if not self._is_told:
                self.warn(error.what)
            self._is_told = True

    def event(self, entry: as_json.Entry) -> None:
        """Keep it for the page."""
        self._events.append((entry["elapsed_s"], entry["text"]))

    def end(self, watch: Watch) -> None:
        """The whole page."""
        self._write(watch, is_last=True)
        if self._output is not None:
            self.say(f"the page is in {self._output}")

    def _write(self, watch: Watch, *, is_last: bool = False) -> None:
        if self._output is None and not is_last:
            return
        from nativeleak.cli.triage import write_page
        from nativeleak.reports.html.redact import Redactor
        from nativeleak.watch.as_html import render_html

        self._written_s = watch.elapsed_s
        page = render_html(watch, list(self._events), Redactor(is_on=self._redacts))
        write_page(page, None if self._output is None else str(self._output))


class LiveView(LineView):
    """A screen that is drawn again every second; the page stays when it ends."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._live: Live | None = None
        self._said: deque[str] = deque(maxlen=_N_SAID)

    def begin(self, watch: Watch) -> None:
        """Begin to draw."""
        from rich.console import Console  # only on a terminal: 14 MB
        from rich.live import Live

        self._live = Live(console=Console(), auto_refresh=False, transient=True)
        self._live.start()
        self.look(watch)

    def look(self, watch: Watch) -> None:
        """Draw."""
        if self._live is not None:
            self._live.update(self._draw(watch), refresh=True)

    def line(self, watch: Watch) -> None:
        """Nothing: the screen has it."""

    def say(self, what: str) -> None:
        """Below the tables."""
        self.warn(what)

    def warn(self, what: str) -> None:
        """The same."""
        self._said.append(f"{time.strftime('%H:%M:%S')} {what}")

    def end(self, watch: Watch) -> None:
        """Stop drawing; print the page."""
        self.close()
        if self._said:
            self._print("\n".join(self._said))
        super().end(watch)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, watch: Watch) -> Group:
        from rich.console import Group
        from rich.text import Text

        rows = [text.title(watch), "", text.heading(), text.line(watch)]
        if (limit := text.limit_line(watch)) is not None:
            rows.append(limit)
        rows += ["", *text.lines_table(watch, 10)]
        sizes = list(text.sizes_table(watch))
        rows += ["", *sizes] if sizes else []
        wait_s = watch.next_reading_s
        rows += ["", f"next full reading in {wait_s:.0f} s, Ctrl-C ends", *self._said]
        bold = {0, 2}
        return Group(
            *(
                Text(printable(row), style="bold" if number in bold else "", overflow="ellipsis", no_wrap=True)
                for number, row in enumerate(rows)
            )
        )


def make_view(format_name: str, *, quiet: bool) -> LineView:
    """JSON lines if they are asked for, the live screen if stdout is a terminal, else lines."""
    if format_name == "json":
        return JsonView(quiet=quiet)
    return LiveView(quiet=quiet) if sys.stdout.isatty() else LineView(quiet=quiet)
