"""A bar on stderr while a long report is made."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final

from nativeleak.reports.stages import listening

_SILENT_S: Final = 0.7
"""A report that is done sooner needs no bar."""
_WIDTH: Final = 24


@contextlib.contextmanager
def report_bar() -> Iterator[None]:
    """Show how far a report is, on a terminal, from the time when it begins to be long; leave nothing behind."""
    if not sys.stderr.isatty():
        yield
        return
    start_s = time.monotonic()
    is_drawn = False

    def draw(stage: str, share: float) -> None:
        nonlocal is_drawn
        if time.monotonic() - start_s < _SILENT_S:
            return
        done = round(_WIDTH * share)
        bar = "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * done + "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (_WIDTH - done)
        text = f"report {bar} {share:4.0%}  {stage}"
        encoding = sys.stderr.encoding or "ascii"
        sys.stderr.write("\r\x1b[2K" + text.encode(encoding, "replace").decode(encoding))
        sys.stderr.flush()
        is_drawn = True

    try:
        with listening(draw):
            yield
    finally:
        if is_drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
