"""``nativeleak report``: makes reports from recordings."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nativeleak.cli.completion import complete_threads
from nativeleak.cli.config import known_libraries
from nativeleak.cli.params import CONTEXT, LIBRARY_HELP
from nativeleak.cli.recordings import find_recordings
from nativeleak.errors import EXIT_FAILURE, EXIT_OK, RecordingError, UsageError
from nativeleak.reports.formats import (
    DEFAULT_FRAMES,
    DEFAULT_WIDTH,
    FORMAT_NAMES,
    WriteOptions,
    check_merged,
    check_several,
    check_terminal,
    find_format,
)
from nativeleak.reports.names import printable
from nativeleak.units import parse_size

if TYPE_CHECKING:
    from nativeleak.reports.merged.merge import Failure

_EPILOG = """\b
Examples:
  nativeleak report trace.nlk                              the answer on one screen
  nativeleak report trace.nlk --all                        with the ten largest call paths and all gaps
  nativeleak report trace.nlk --metric growth --top 5      the five fastest-growing sites
  nativeleak report trace.nlk --by pool                    threads of a pool as one row
  nativeleak report trace.nlk --at peak                    when memory was highest
  nativeleak report trace.nlk --thread 'nioEventLoop-*'    only these threads
  nativeleak report trace.nlk --format folded | flamegraph.pl > trace.svg
  nativeleak report trace.nlk --lines --all                source lines of C and C++
  nativeleak report trace.nlk --format json -o trace.json
  nativeleak report trace.nlk --format pprof -o trace.pb.gz
  nativeleak report trace.nlk --format html -o trace.html --open
  nativeleak report trace.nlk --format html -o mail.html --redact --hide 'com.example.*'
  nativeleak report host1.nlk host2.nlk incident/          many recordings, merged by call path
  nativeleak report incident/ --by host --format csv -o hosts.csv
"""


def _size(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("report", context_settings=CONTEXT, epilog=_EPILOG, short_help="Make reports from recordings, anywhere.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMAT_NAMES),
    default=FORMAT_NAMES[0],
    show_default=True,
    help="Form of the report; folded: one line a stack, for flame graphs; html: one page that loads nothing; "
    "pprof, speedscope, csv, parquet, firefox, perfetto, otlp, prometheus: for these tools.",
)
@click.option(
    "--metric",
    type=click.Choice(["outstanding", "allocated", "count", "growth", "resident"]),
    help="Order of the sites, and the figure of folded stacks (growth: bytes per minute). [default: outstanding]",
)
@click.option(
    "--by",
    type=click.Choice(["path", "stack", "site", "thread", "site,thread", "pool", "host", "process"]),
    help="One row per call path (same functions and lines), per machine stack (stack or site), per thread, or per pair "
    "of stack and thread. pool: per path and pool, threads whose names differ only in numbers being one "
    "(reactor-http-epoll-*). host, process: per path and machine, or per path, pool and process; for several "
    "recordings. [default: path in text, html and prometheus, site,thread in other formats]",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of rows to show. [default: 10 in text, 100 in prometheus, all in other formats]",
)
@click.option(
    "--min",
    "min_bytes",
    callback=_size,
    default="0",
    metavar="SIZE",
    help="Leave out rows with fewer outstanding bytes: 64K, 1MiB.",
)
@click.option(
    "--thread",
    metavar="PATTERN",
    shell_complete=complete_threads,
    help="Show only threads with this TID or name; * and ? match, or /REGEX/.",
)
@click.option("--library", "libraries", multiple=True, metavar="PATTERN", help=LIBRARY_HELP)
@click.option("--function", metavar="REGEX", help="Show only stacks with a matching function in any frame.")
@click.option(
    "--max-frames",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Maximum frames of a stack in text; 0 shows all. [default: 12]",
)
@click.option(
    "--all", "all_", is_flag=True, help="Text: also call paths, threads, gaps and cost below the first screen."
)
@click.option("--full-stacks", is_flag=True, help="Text: as --all, with all frames of each stack.")
@click.option(
    "--lines/--no-lines",
    default=None,
    help="Show source lines and inlined functions of native code, from debug information on this machine. "
    "[default: in html, where it is there]",
)
@click.option(
    "--debug-files",
    "debug_folders",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of binaries or debug files, for --lines. May be repeated.",
)
@click.option("--compact", is_flag=True, help="JSON: frames and stacks in tables of their own, to which sites refer.")
@click.option(
    "--redact",
    is_flag=True,
    help="HTML: hide paths, arguments, network addresses and names of hosts, before the page is mailed.",
)
@click.option(
    "--hide",
    "hidden",
    multiple=True,
    metavar="PATTERN",
    help="HTML: hide functions, libraries and threads of this name; * and ? match: 'com.example.*'. May be repeated.",
)
@click.option("--each", is_flag=True, help="Several recordings: text or folded reports one after another, not merged.")
@click.option("--open", "opens", is_flag=True, help="HTML: show the page in a browser; needs -o FILE.")
@click.option(
    "--at",
    metavar="MOMENT",
    help="Report this moment of the trace: peak (most resident memory), end, or a time since its start (90s, 1h30m). "
    "The nearest snapshot is taken. [default: end]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    metavar="OUT",
    help="File of the report, readable only by you; - is standard output.",
)
def report_command(
    files: tuple[Path, ...],
    format_name: str,
    metric: str | None,
    by: str | None,
    top: int | None,
    min_bytes: int,
    thread: str | None,
    libraries: tuple[str, ...],
    function: str | None,
    max_frames: int | None,
    all_: bool,
    full_stacks: bool,
    lines: bool | None,
    debug_folders: tuple[Path, ...],
    compact: bool,
    redact: bool,
    hidden: tuple[str, ...],
    each: bool,
    opens: bool,
    at: str | None,
    output: Path,
) -> int:
    """Make a report from recordings: what leaks, what holds memory, and what was not seen.

    Text is one screen, suspects first. Any option about rows or stacks adds the call paths below it. Several
    recordings, of hosts, processes or hours, are one report, merged by call path. FILE may be a folder, which stands
    for the recordings in it and below, or a pattern in quotes.
    """
    # numpy and the tables take a quarter of a second to load: neither --help nor any other verb shall wait for them.
    from nativeleak.analysis.resident import snapshot_at
    from nativeleak.analysis.select import By, Metric, Selection
    from nativeleak.cli.bar import report_bar
    from nativeleak.cli.errors import print_error
    from nativeleak.cli.lines import check_lines, with_lines
    from nativeleak.cli.opening import check_page, open_page
    from nativeleak.recording import open_recording
    from nativeleak.recording.moment import RecordingAt
    from nativeleak.reports.output import encode_text, open_file, open_stdout
    from nativeleak.reports.render import write_merged, write_report
    from nativeleak.runtimes.frames import use_libraries

    format_ = find_format(format_name)
    files = find_recordings(files)
    merges = len(files) > 1 and not each
    if each:
        check_several(format_, files)
    check_merged(format_, files[:1] if each else files, by)
    if merges and (redact or hidden or compact or lines):
        option = "--compact" if compact else "--redact" if redact else "--hide" if hidden else "--lines"
        raise UsageError(f"{option} is for the report of one recording", "Name one FILE.")
    check_lines(lines)
    check_page(format_name, redact=redact, hidden=hidden, opens=opens, output=output)
    to_stdout = str(output) == "-"
    to_terminal = to_stdout and sys.stdout.isatty()
    check_terminal(format_, is_terminal=to_terminal, remedy=f"Name a file: -o report{format_.suffix}")
    terminal = shutil.get_terminal_size((DEFAULT_WIDTH, 24))
    about_rows = (metric, by, top, max_frames, min_bytes or None)
    options = WriteOptions(
        width=terminal.columns if to_terminal else DEFAULT_WIDTH,
        colour=to_terminal,
        max_frames=None if full_stacks or max_frames == 0 else max_frames or DEFAULT_FRAMES,
        compact=compact,
        detail=all_ or full_stacks or any(given is not None for given in about_rows),
        screen_lines=terminal.lines if to_terminal else None,
        redact=redact,
        hide=hidden,
    )
    rows_by = By.SITE if by == "stack" else By(by) if by else None
    selection = Selection(Metric(metric or "outstanding"), rows_by, thread, function, min_bytes, top)
    known = known_libraries(libraries)
    opened = open_stdout(is_binary=format_.is_binary) if to_stdout else open_file(output)
    failures: Sequence[Failure] = ()
    with use_libraries(known), opened as stream, report_bar():
        if merges:
            failures = write_merged(files, stream, format_, selection, options, at)
        for path in () if merges else files:
            if len(files) > 1:
                stream.write(encode_text(f"# {printable(str(path))}:\n"))
            with open_recording(path) as recording:
                then = recording if at is None else RecordingAt(recording, snapshot_at(recording, at))
                if lines or (lines is None and format_name == "html"):
                    then = with_lines(then, debug_folders, tells=bool(lines))
                write_report(then, stream, format_, selection, options)
            if len(files) > 1:
                stream.write(b"\n")
    if opens:
        open_page(output)
    for failure in failures:
        print_error(RecordingError(failure.what, failure.remedy))
    return EXIT_FAILURE if failures else EXIT_OK
