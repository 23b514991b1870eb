"""``nativeleak report``: makes reports from recordings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from nativeleak.cli.completion import complete_threads
from nativeleak.cli.config import known_libraries
from nativeleak.cli.params import CONTEXT, LIBRARY_HELP
from nativeleak.reports.formats import (
    DEFAULT_WIDTH,
    FORMAT_NAMES,
    WriteOptions,
    check_several,
    check_terminal,
    find_format,
)
from nativeleak.reports.names import printable
from nativeleak.units import parse_size

_EPILOG = """\b
Examples:
  nativeleak report trace.nlk                              the answer, and the ten largest sites
  nativeleak report trace.nlk --metric growth --top 5      the five fastest-growing sites
  nativeleak report trace.nlk --by pool                    threads of a pool as one row
  nativeleak report trace.nlk --thread 'nioEventLoop-*'    only these threads
  nativeleak report trace.nlk --format folded | flamegraph.pl > trace.svg
  nativeleak report trace.nlk --format json -o trace.json
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
    help="Form of the report; folded: one line a stack, for flame graphs.",
)
@click.option(
    "--metric",
    type=click.Choice(["outstanding", "allocated", "count", "growth", "resident"]),
    default="outstanding",
    show_default=True,
    help="Order of the sites, and the figure of folded stacks (growth: bytes per minute).",
)
@click.option(
    "--by",
    type=click.Choice(["site", "thread", "site,thread", "pool"]),
    default="site,thread",
    show_default=True,
    help="One row per call site (threads merged), per thread (stacks merged), or per pair of them. pool: threads whose "
    "names differ only in numbers are one (reactor-http-epoll-*).",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of rows to show. [default: 10 in text, all in other formats]",
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
    default=40,
    show_default=True,
    metavar="N",
    help="Maximum frames of a stack in text; 0 shows all.",
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
    metric: str,
    by: str,
    top: int | None,
    min_bytes: int,
    thread: str | None,
    libraries: tuple[str, ...],
    function: str | None,
    max_frames: int,
    output: Path,
) -> None:
    """Make a report from each recording FILE: outstanding memory by thread and call site, and whether it grows."""
    # pandas takes half a second to load: neither --help nor any other verb shall wait for it.
    from nativeleak.analysis.select import By, Metric, Selection
    from nativeleak.recording import open_recording
    from nativeleak.reports.output import encode_text, open_file, open_stdout
    from nativeleak.reports.render import write_report
    from nativeleak.runtimes.frames import use_libraries

    format_ = find_format(format_name)
    check_several(format_, files)
    to_stdout = str(output) == "-"
    to_terminal = to_stdout and sys.stdout.isatty()
    check_terminal(format_, is_terminal=to_terminal, remedy=f"Name a file: -o report{format_.suffix}")
    options = WriteOptions(
        width=shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns if to_terminal else DEFAULT_WIDTH,
        colour=to_terminal,
        max_frames=max_frames or None,
    )
    selection = Selection(Metric(metric), By(by), thread, function, min_bytes, top)
    known = known_libraries(libraries)
    with use_libraries(known), open_stdout(is_binary=format_.is_binary) if to_stdout else open_file(output) as stream:
        for path in files:
            if len(files) > 1:
                stream.write(encode_text(f"# {printable(str(path))}:\n"))
            with open_recording(path) as recording:
                write_report(recording, stream, format_, selection, options)
            if len(files) > 1:
                stream.write(b"\n")
