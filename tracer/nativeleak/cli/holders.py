"""``nativeleak holders``: who holds the native memory of a process, and what nobody holds any more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, DURATION, SIZE, ns_pid_options, resolve_pids

_EPILOG = """\b
Examples:
  nativeleak holders -p 4711                        lost blocks, holders, C++ classes on one screen
  nativeleak holders -p 4711 --all                  all of them
  nativeleak holders -p 4711 --budget 10s --max-read 2G
  nativeleak holders -p 4711 --with trace.nlk       what a trace with --blocks saw allocated: lost, or held by whom
  nativeleak holders -p 4711 --format json | jq '.lost[0].groups'
\b
Lost blocks are in use and no pointer leads to them, in every scan. Holders are variables, stacks of threads and regions
of memory. docs/holders.md says what can and cannot be told.
\b
Exit status: 0 report made, 1 its heap cannot be walked, 3 no right to read the process, 4 no such process."""


@click.command(
    "holders",
    context_settings=CONTEXT,
    epilog=_EPILOG,
    short_help="Say who holds the native memory of a process, and what is lost.",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.option("--budget", type=DURATION, default="60s", show_default=True, help="Time limit; what is known is shown.")
@click.option("--max-read", type=SIZE, default=None, metavar="SIZE",
              help="Limit of bytes that are read in all scans together.  [default: none]")  # fmt: skip
@click.option("--scans", type=click.IntRange(1, 1000), default=4, show_default=True,
              help="Number of scans that have to agree that a block is lost.")  # fmt: skip
@click.option("--wait", "gap", type=DURATION, default="1s", show_default=True, help="Time between two scans.")
@click.option("--align", type=click.Choice(["auto", "8", "4", "1"]), default="auto", show_default=True,
              help="Look for pointers at multiples of so many bytes; auto: 8, and 4 in the last scans.")  # fmt: skip
@click.option("--with", "recording", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Say of the call paths of this recording of the process what they lost and who holds the rest; "
              "made with `nativeleak trace --blocks`.")  # fmt: skip
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("--all", "show_all", is_flag=True, help="Show everything, not one screen.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def holders_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    budget: float,
    max_read: int | None,
    scans: int,
    gap: float,
    align: str,
    recording: Path | None,
    format_name: str,
    output: str | None,
    *,
    show_all: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Every live block of a process, and what holds it: blocks nobody points at, bytes by holder, bytes by C++ class.

    The process is read, never stopped, and nothing is loaded into it. Blocks from before this command count like new
    ones.
    """
    from nativeleak import __version__
    from nativeleak.cli.triage import write_page
    from nativeleak.errors import EXIT_OK, UsageError
    from nativeleak.holders.as_json import render_json
    from nativeleak.holders.run import Options, find_who_holds
    from nativeleak.holders.text import render_text

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    if target is None:
        raise UsageError("holders failed: no process is given", "Name it: -p PID")
    step = 0 if align == "auto" else int(align)
    with_progress = progress(quiet=quiet)
    options = Options(
        n_scans=scans,
        budget_s=budget,
        max_read_bytes=max_read or 0,
        step=step,
        gap_s=gap,
        say=with_progress,
        recording=recording,
    )
    try:
        report = find_who_holds(target, options)
    finally:
        with_progress("")
    text = render_json(report, __version__) if format_name == "json" else render_text(report, show_all=show_all)
    write_page(text, output)
    return EXIT_OK


def progress(*, quiet: bool) -> Callable[[str], None]:
    """Shows one line of progress on a terminal, each in place of the one before; an empty one takes it away."""

    def say(line: str) -> None:
        if not quiet and sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line[:100]}")
            sys.stderr.flush()

    return say
