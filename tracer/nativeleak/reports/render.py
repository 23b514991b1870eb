"""One call from an open recording to the text of a report, for ``report`` and for the end of ``trace``."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from nativeleak.analysis.select import Selection
from nativeleak.recording import Recording
from nativeleak.reports.build import build
from nativeleak.reports.folded import format_folded
from nativeleak.reports.json_report import format_json
from nativeleak.reports.text import Line, text_lines

DEFAULT_TOP: Final = 10
"""Sites of a text report unless ``--top`` says otherwise; the other formats are complete."""

DEFAULT_WIDTH: Final = 100


class Format(StrEnum):
    """Formats of a report; the values are those of ``--format``."""

    TEXT = "text"
    JSON = "json"
    FOLDED = "folded"


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows and how.

    Attributes:
        width: Columns of a text report.
        colour: Whether a text report has the control codes of a terminal.
        max_frames: Most frames a text report shows of one stack, None for all.
    """

    selection: Selection = field(default_factory=Selection)
    width: int = DEFAULT_WIDTH
    colour: bool = False
    max_frames: int | None = 40


def render(recording: Recording, *, format: Format, options: ReportOptions) -> str:  # noqa: A002 - the option's name
    """The report as text, with a line end.

    Raises:
        RecordingError: The recording is damaged.
        UsageError: A filter makes no sense.
    """
    selection = options.selection
    if format is Format.TEXT and selection.top is None:
        selection = replace(selection, top=DEFAULT_TOP)
    report = build(recording, selection)
    match format:
        case Format.JSON:
            return format_json(report)
        case Format.FOLDED:
            return format_folded(report)
        case Format.TEXT:
            lines = list(text_lines(report, options.width, options.max_frames))
            return _coloured(lines, options.width) if options.colour else "".join(f"{line.text}\n" for line in lines)


def _coloured(lines: list[Line], width: int) -> str:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    with console.capture() as capture:
        for line in lines:
            console.print(Text(line.text, style=line.style), overflow="fold", soft_wrap=False)
    return capture.get()
