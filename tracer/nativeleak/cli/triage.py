"""``nativeleak triage``: what the resident memory of a process is, now, without tracing."""

from __future__ import annotations

from pathlib import Path

import click

from nativeleak import __version__
from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, ns_pid_options, resolve_pids


@click.command(
    "triage",
    context_settings=CONTEXT,
    short_help="Say what a process's resident memory is, now, without tracing.",
    epilog="""\b
Examples:
  nativeleak triage -p 4711              the answer on one screen
  nativeleak triage -p 4711 --all        every verdict, every part of every line
  nativeleak triage -p 4711 --format json | jq '.verdicts[0].text'
Exit status: 0 report made, 3 no right to read the process, 4 no process has that PID.""",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("--all", "show_all", is_flag=True, help="Show everything, not one screen.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def triage_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    format_name: str,
    output: str | None,
    *,
    show_all: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> None:
    """Every resident page of a process in one line: Java heap, malloc in use and retained, stacks, files.

    The process is only read; it is never stopped. Blocks from before this command are counted too.
    """
    from nativeleak.errors import UsageError
    from nativeleak.triage.as_json import render_json
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.text import render_text
    from nativeleak.triage.verdicts import judge

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    if target is None:
        raise UsageError("triage failed: no process is given", "Name it: -p PID")
    ledger = read_ledger(target)
    verdicts = judge(ledger)
    if format_name == "json":
        text = render_json(ledger, verdicts, __version__)
    else:
        text = render_text(ledger, verdicts, show_all=show_all)
    write_page(text, output)


def write_page(text: str, output: str | None) -> None:
    """Write a page to a file, or to stdout without one."""
    from nativeleak.reports.names import printable
    from nativeleak.reports.output import encode_text, open_file, write_stdout

    safe = "\n".join(printable(line) for line in text.split("\n"))
    if output is None:
        write_stdout(safe)
        return
    with open_file(Path(output)) as file:
        file.write(encode_text(safe))
