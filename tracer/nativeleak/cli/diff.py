"""``nativeleak diff``: compares two recordings, or two moments of one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nativeleak.cli.completion import complete_threads
from nativeleak.cli.config import known_libraries
from nativeleak.cli.params import CONTEXT
from nativeleak.errors import UsageError


@click.command(
    "diff",
    context_settings=CONTEXT,
    short_help="Compare two recordings, or two moments of one.",
    epilog="""\b
Examples:
  nativeleak diff old.nlk new.nlk                          what holds more in the new version
  nativeleak diff trace.nlk --from 10m                     what came in since the first ten minutes
  nativeleak diff trace.nlk --from peak --to end           what was given back after the peak
  nativeleak diff old.nlk new.nlk --format html -o diff.html --open
  nativeleak diff old.nlk new.nlk --format folded | flamegraph.pl > diff.svg""",
)
@click.argument("files", nargs=-1, required=True, metavar="BEFORE [AFTER]", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "from_",
    metavar="MOMENT",
    help="Moment of BEFORE: peak, end, or a time since the start of its trace (90s, 1h30m). [default: end]",
)
@click.option("--to", metavar="MOMENT", help="Moment of AFTER, likewise. [default: end]")
@click.option(
    "--metric",
    type=click.Choice(["outstanding", "allocated", "count"]),
    default="outstanding",
    show_default=True,
    help="The figure that is compared: bytes not freed, bytes allocated, blocks.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "json", "folded", "html"]),
    default="text",
    show_default=True,
    help="Form of the output; folded: one line a stack with the figures before and after; html: one page "
    "with a differential flame graph.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows of each table, those with the largest changes. [default: 10 in text, all in other formats]",
)
@click.option(
    "--thread",
    metavar="PATTERN",
    shell_complete=complete_threads,
    help="Compare only threads with this TID or name; * and ? match, or /REGEX/.",
)
@click.option("--function", metavar="REGEX", help="Compare only stacks with a matching function in any frame.")
@click.option(
    "--redact", is_flag=True, help="HTML: hide paths, arguments, network addresses and names of hosts in the page."
)
@click.option(
    "--hide",
    "hidden",
    multiple=True,
    metavar="PATTERN",
    help="HTML: hide functions and threads of this name; * and ? match. May be repeated.",
)
@click.option("--open", "opens", is_flag=True, help="HTML: show the page in a browser; needs -o FILE.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    metavar="OUT",
    help="File of the output, readable only by you; - is standard output.",
)
def diff_command(
    files: tuple[Path, ...],
    from_: str | None,
    to: str | None,
    metric: str,
    format_name: str,
    top: int | None,
    thread: str | None,
    function: str | None,
    redact: bool,
    hidden: tuple[str, ...],
    opens: bool,
    output: Path,
) -> None:
    """Compare memory that is not freed in recording BEFORE with that in AFTER: by call path, thread pool and purpose.

    With one recording, compare two moments of it: --from and --to. Stacks are matched by the names of their functions.
    """
    from nativeleak.analysis.resident import snapshot_at
    from nativeleak.cli.opening import check_page, open_page
    from nativeleak.recording import Recording, open_recording
    from nativeleak.recording.moment import RecordingAt
    from nativeleak.reports.diff import DiffMetric, compare
    from nativeleak.reports.diff_formats import WRITERS
    from nativeleak.reports.formats import check_terminal, find_format
    from nativeleak.reports.html.diff_page import render_html
    from nativeleak.reports.html.redact import Redactor
    from nativeleak.reports.output import encode_text, open_file, open_stdout
    from nativeleak.runtimes.frames import use_libraries

    _check_files(files, from_, to)
    check_page(format_name, redact=redact, hidden=hidden, opens=opens, output=output)
    check_terminal(
        find_format(format_name),
        is_terminal=str(output) == "-" and sys.stdout.isatty(),
        remedy="Name a file: -o diff.html",
    )

    def at(recording: Recording, moment: str | None) -> Recording:
        return recording if moment is None else RecordingAt(recording, snapshot_at(recording, moment))

    known = known_libraries(())
    with use_libraries(known), open_recording(files[0]) as before, open_recording(files[-1]) as after:
        diff = compare(at(before, from_), at(after, to), thread=thread, function=function)
    if format_name == "html":
        page = render_html(diff, DiffMetric(metric), top, Redactor(is_on=redact, patterns=hidden))
    else:
        page = WRITERS[format_name](diff, DiffMetric(metric), top)
    opened = open_stdout() if str(output) == "-" else open_file(output)
    with opened as stream:
        stream.write(encode_text(page))
    if opens:
        open_page(output)


def _check_files(files: tuple[Path, ...], from_: str | None, to: str | None) -> None:
    """Refuse what cannot be compared.

    Raises:
        UsageError: More than two files, or one file and no two moments.
    """
    if len(files) > 2:
        raise UsageError(f"diff failed: {len(files)} recordings are given", "Name two: BEFORE AFTER")
    if len(files) == 1 and from_ is None:
        raise UsageError(
            "diff failed: one recording is compared at two moments, and --from is missing",
            "Add --from 10m, or name a second recording.",
        )
    if len(files) == 1 and from_ == (to or "end"):
        raise UsageError(f"diff failed: --from and --to are the same moment, {from_}", "Name two moments.")
