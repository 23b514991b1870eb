"""``nativeleak maps``: the address ranges of a process, named by what they are."""

from __future__ import annotations

import click

from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, ns_pid_options, resolve_pids


@click.command(
    "maps",
    context_settings=CONTEXT,
    short_help="List a process's address ranges, named by what they are.",
    epilog="""\b
Examples:
  nativeleak maps -p 4711 --sort rss | head -20
  nativeleak maps -p 4711 --format json | jq '.ranges[] | select(.line == "unexplained")'
Exit status: 0 list made, 3 no right to read the process, 4 no process has that PID.""",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.option("--sort", "order", type=click.Choice(["address", "rss", "size", "swap"]), default="address",
              show_default=True, help="Order of the list.")  # fmt: skip
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def maps_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    order: str,
    format_name: str,
    output: str | None,
    *,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> None:
    """List the address ranges of a process with resident memory, swap and owner: heap, stack, arena, file.

    The process is only read; it is never stopped.
    """
    from nativeleak.cli.triage import write_page
    from nativeleak.errors import UsageError
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.listing import ordered, render_maps, render_maps_json

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    if target is None:
        raise UsageError("maps failed: no process is given", "Name it: -p PID")
    ledger = read_ledger(target)
    pieces = ordered(ledger, order)
    write_page(render_maps_json(ledger, pieces) if format_name == "json" else render_maps(ledger, pieces), output)
