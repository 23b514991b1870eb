"""``nativeleak peek``: what is inside a range of a process's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nativeleak import __version__
from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, SIZE, ns_pid_options, resolve_pids

if TYPE_CHECKING:
    from nativeleak.peek.ranges import Span

_EPILOG = """\b
Examples:
  nativeleak maps -p 4711 --sort rss | head              where the memory is
  nativeleak peek -p 4711 7f2c40000000-7f2c44000000      what is in one of the ranges
  nativeleak peek -p 4711 7f2c40000000                   in the whole mapping that holds the address
  nativeleak peek -p 4711 7f2c40000000+64M --whole --strings | head -50
  nativeleak peek -p 4711 7f2c40000000 --output - | ssh HOST 'cat > region.bin'
\b
Exit status: 0 it was read, 2 nothing is mapped there, 3 no right to read the process, 4 no process has that PID."""


@click.command(
    "peek", context_settings=CONTEXT, epilog=_EPILOG, short_help="Show what a range of a process's memory holds."
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.argument("address", metavar="ADDRESS[-END]")
@click.option("--whole", is_flag=True, help="Read all that is in memory. [default: 16 MiB, evenly spread]")
@click.option("--sample", type=SIZE, metavar="SIZE", help="Read about as much, evenly spread. [default: 16M]")
@click.option("--strings", "strings_only", is_flag=True, help="Print only the texts, each behind its count.")
@click.option("--min-length", type=click.IntRange(3, 100), default=6, show_default=True, metavar="N",
              help="Ignore shorter texts.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), metavar="N",
              help="Texts to print. [default: 20; with --strings all]")  # fmt: skip
@click.option("--raw", is_flag=True, help="Show passwords, tokens and keys too, which are masked otherwise.")
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-o", "--output", metavar="FILE",
              help="Copy the bytes of the range to FILE, or to standard output (-), instead of a report.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print no progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def peek_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    address: str,
    sample: int | None,
    min_length: int,
    top: int | None,
    format_name: str,
    output: str | None,
    *,
    whole: bool,
    strings_only: bool,
    raw: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> None:
    """Say what a range of memory holds: kinds of pages, recognised contents, texts with their counts.

    The process is never stopped. Only pages that are in memory are read: nothing is swapped in, no page is added. The
    end of a range may be written as END or as +SIZE; without one the whole mapping is meant.
    """
    from nativeleak.cli.progress import share_progress
    from nativeleak.errors import UsageError
    from nativeleak.peek.ranges import find_span, parse_range
    from nativeleak.process.check import check_target

    pid = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    if pid is None:
        raise UsageError("peek failed: no process is given", "Name it: -p PID")
    if whole and sample is not None:
        raise UsageError("peek takes --whole or --sample, not both")
    start, end = parse_range(address)
    target = check_target(pid, any_width=True)
    span = find_span(pid, start, end)
    progress = None if quiet else share_progress("reading")
    if output is not None:
        _copy(pid, output, span, raw=raw, progress=progress, quiet=quiet)
        return
    from nativeleak.cli.triage import write_page
    from nativeleak.peek.as_json import render_json
    from nativeleak.peek.look import SAMPLE_BYTES, look
    from nativeleak.peek.text import render_strings, render_text

    n_strings = top if top is not None or strings_only else 20
    contents = look(
        pid, span, sample_bytes=0 if whole else SAMPLE_BYTES if sample is None else sample, raw=raw,
        min_chars=min_length, n_strings=n_strings, progress=progress,
    )  # fmt: skip
    if format_name == "json":
        write_page(render_json(target, contents, __version__), None)
    else:
        write_page(render_strings(contents) if strings_only else render_text(target, contents), None)


def _copy(
    pid: int,
    output: str,
    span: Span,
    *,
    raw: bool,
    progress: Callable[[int, int], None] | None,
    quiet: bool,
) -> None:
    from nativeleak.errors import UsageError
    from nativeleak.peek.dump import dump
    from nativeleak.units import format_bytes

    if output == "-" and sys.stdout.isatty():
        raise UsageError("peek does not write memory to a terminal", "Name a file, or pipe standard output.")
    dumped = dump(pid, span, None if output == "-" else Path(output), raw=raw, progress=progress)
    if quiet and not dumped.has_ended:
        return
    absent = dumped.n_bytes - dumped.read_bytes
    where = "standard output" if output == "-" else output
    said = [f"{format_bytes(dumped.n_bytes)} to {where}"]
    if absent:
        said.append(f"{format_bytes(absent)} were not in memory: zeros")
    if dumped.failed_bytes:
        said.append(f"{format_bytes(dumped.failed_bytes)} of these went away while they were read")
    if dumped.has_ended:
        said.append("the process ended meanwhile: what was not read by then is zeros")
    if dumped.n_secrets:
        said.append(f"{dumped.n_secrets:,} secrets masked by asterisks; --raw writes the bytes as they are")
    print(f"nativeleak: {'; '.join(said)}", file=sys.stderr)  # noqa: T201
