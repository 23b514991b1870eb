"""The formats of a report: the one list of them, read by ``--format`` of every verb.

Scope: names and facts only. A format's writer is named here and imported when a report is made: importing this module
loads neither pandas nor any writer.

A new format is a module with ``write(report, stream, options)`` and one row in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from nativeleak.errors import UsageError

if TYPE_CHECKING:
    from nativeleak.reports.merged.sites import MergedTable
    from nativeleak.reports.report import Report

DEFAULT_WIDTH: Final = 100
DEFAULT_FRAMES: Final = 12


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a report is laid out; a format ignores what it has no use for.

    Attributes:
        width: Columns of a text report.
        colour: Whether a text report has the control codes of a terminal.
        max_frames: Most frames a text report shows of one stack, None for all.
        detail: Whether a text report has all call paths, threads and gaps below its first screen.
        screen_lines: Lines of the terminal that a text report goes to; None where it goes elsewhere.
        compact: Whether a JSON report has its frames and stacks in tables of their own.
        redact: Whether an HTML report hides paths, arguments, addresses and names of hosts.
        hide: Patterns of names that an HTML report hides.
    """

    width: int = DEFAULT_WIDTH
    colour: bool = False
    max_frames: int | None = DEFAULT_FRAMES
    compact: bool = False
    detail: bool = False
    screen_lines: int | None = None
    redact: bool = False
    hide: tuple[str, ...] = ()


class Writer(Protocol):
    """Writes a report in one format."""

    def __call__(self, report: Report, stream: BinaryIO, options: WriteOptions) -> None:
        """Write the whole report; the caller opens and closes the stream. Text is UTF-8 and ends with a line end."""


class MergedWriter(Protocol):
    """Writes a report of many recordings in one format."""

    def __call__(self, report: MergedTable, stream: BinaryIO, options: WriteOptions, /) -> None:
        """Write the whole report, as a ``Writer`` does."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        name: Value of ``--format``.
        suffix: Ending of a file of this format, with the dot.
        writer: Its ``Writer`` as ``module:function``.
        is_binary: A terminal cannot show it, and its bytes are written as they are.
        container: Noun of what holds exactly one report; empty where reports of several recordings may follow each
            other, each under a heading.
        default_top: Sites shown where ``--top`` is not given; None for all.
        default_by: Key of a row where ``--by`` is not given.
        answers: It says what grows and what holds memory, and not sites alone.
        merged_writer: Its ``MergedWriter`` likewise; empty where ``writer`` takes many recordings too.
        merged_by: Key of a row of a report of many recordings, where ``--by`` is not given; empty where the format
            holds one recording.
        has_freed: Sites of which everything is freed are shown too, where neither ``--top`` nor ``--min`` is given.
    """

    name: str
    suffix: str
    writer: str
    is_binary: bool = False
    container: str = ""
    default_top: int | None = None
    default_by: str = "site,thread"
    has_freed: bool = False
    answers: bool = False
    merged_writer: str = ""
    merged_by: str = "path"

    def load_writer(self) -> Writer:
        """Import the writer: with it come pandas and numpy."""
        writer: Writer = _load(self.writer)
        return writer

    def load_merged_writer(self) -> MergedWriter:
        """Import the writer of a report of many recordings."""
        writer: MergedWriter = _load(self.merged_writer or self.writer)
        return writer


def _load(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


FORMATS: Final = (
    Format(
        "text", ".txt", "nativeleak.reports.text:write", default_top=10, default_by="path", answers=True,
        merged_writer="nativeleak.reports.merged.text:write",
    ),
    Format(
        "json", ".json", "nativeleak.reports.json_report:write", container="JSON object", answers=True,
        merged_writer="nativeleak.reports.merged.as_json:write",
    ),
    Format("folded", ".folded", "nativeleak.reports.folded:write", merged_by="pool"),
    Format(
        "html", ".html", "nativeleak.reports.html.page:write",
        is_binary=True, container="page", default_by="path", answers=True,
        merged_writer="nativeleak.reports.merged.page:write",
    ),
    Format(
        "pprof", ".pb.gz", "nativeleak.reports.exports.pprof:write",
        is_binary=True, container="profile", has_freed=True, merged_by="process",
    ),
    Format(
        "speedscope", ".speedscope.json", "nativeleak.reports.exports.speedscope:write",
        container="JSON object", has_freed=True, merged_by="pool",
    ),
    Format(
        "csv", ".csv", "nativeleak.reports.exports.csv_sites:write", container="table", has_freed=True,
        merged_by="process",
    ),
    Format(
        "parquet", ".parquet", "nativeleak.reports.exports.parquet:write",
        is_binary=True, container="table", has_freed=True, merged_by="process",
    ),
    Format(
        "firefox", ".firefox.json", "nativeleak.reports.exports.firefox:write",
        container="JSON object", has_freed=True, merged_by="pool",
    ),
    Format(
        "perfetto", ".perfetto-trace", "nativeleak.reports.exports.perfetto:write",
        is_binary=True, container="trace", has_freed=True, merged_by="",
    ),
    Format(
        "otlp", ".otlp", "nativeleak.reports.exports.otlp:write",
        is_binary=True, container="message", has_freed=True, merged_by="process",
    ),
    Format(
        "prometheus", ".prom", "nativeleak.reports.exports.prometheus:write",
        container="set of metrics", default_top=100, default_by="path", merged_by="",
    ),
)  # fmt: skip
"""All formats; the first is the default."""

MERGED_BY: Final = ("path", "pool", "host", "process")
"""Values of ``--by`` for several recordings."""

FORMAT_NAMES: Final = tuple(format_.name for format_ in FORMATS)


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        KeyError: No format has that name.
    """
    return {format_.name: format_ for format_ in FORMATS}[name]


def check_several(format_: Format, files: Sequence[object]) -> None:
    """Refuse several recordings for a format that holds one report.

    Raises:
        UsageError: There are several files, and the format holds one report.
    """
    if len(files) > 1 and format_.container:
        raise UsageError(
            f"report --format {format_.name} failed: several recordings do not fit into one {format_.container}",
            "Run nativeleak report once for each recording.",
        )


def check_merged(format_: Format, files: Sequence[object], by: str | None) -> None:
    """Refuse keys of rows that need several recordings, or cannot be had of several, and formats of one recording.

    Args:
        format_: The format of the report.
        files: The recordings.
        by: Value of ``--by``; None where it is not given.

    Raises:
        UsageError: They do not fit together.
    """
    if len(files) == 1:
        if by in ("host", "process"):
            raise UsageError(f"--by {by} needs several recordings", "Name more files, or a folder of recordings.")
        return
    if not format_.merged_by:
        raise UsageError(
            f"report --format {format_.name} failed: several recordings do not fit into one {format_.container}",
            "Run nativeleak report once for each recording.",
        )
    if by not in (None, *MERGED_BY):
        raise UsageError(
            f"--by {by} needs one recording: stacks and threads of several are not the same",
            f"Give --by {', '.join(MERGED_BY)}, or --each for reports one after another.",
        )


def check_terminal(format_: Format, *, is_terminal: bool, remedy: str) -> None:
    """Refuse to write to a terminal what it cannot show.

    Args:
        format_: The format of the report.
        is_terminal: Whether the report would go to a terminal.
        remedy: How to write it to a file instead.

    Raises:
        UsageError: The format is binary, and the report would go to a terminal.
    """
    if is_terminal and format_.is_binary:
        raise UsageError(f"a terminal cannot show a report in format {format_.name}", remedy)
