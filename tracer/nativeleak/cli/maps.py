"""``nativeleak maps``: the address ranges of a process, named by what they are."""

from __future__ import annotations

import time
from pathlib import Path

import click

from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, DURATION, ns_pid_options, resolve_pids


@click.command(
    "maps",
    context_settings=CONTEXT,
    short_help="List a process's address ranges, named by what they are.",
    epilog="""\b
Examples:
  nativeleak maps -p 4711 --sort rss | head -20
  nativeleak maps -p 4711 --again 10s                what changes in ten seconds
  nativeleak maps -p 4711 --format json -o a.json    save the list, and later:
  nativeleak maps -p 4711 --diff a.json              what has changed since
  nativeleak maps --diff a.json --diff b.json        between two saved lists
  nativeleak maps -p 4711 --format json | jq '.ranges[] | select(.line == "unexplained")'
Exit status: 0 list made, 3 no right to read the process, 4 no process has that PID.""",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.option("--sort", "order", type=click.Choice(["address", "rss", "size", "swap"]), default="address",
              show_default=True, help="Order of the list.")  # fmt: skip
@click.option("--again", "again_s", type=DURATION, metavar="TIME",
              help="Read twice, so long apart, and list what changed, the largest growth first.")  # fmt: skip
@click.option("--diff", "saved", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="List what changed since FILE was saved by --format json. Twice: between the two, without a "
              "process.")  # fmt: skip
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
    again_s: float | None,
    saved: tuple[Path, ...],
    *,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> None:
    """List the address ranges of a process with resident memory, swap and owner: heap, stack, arena, file.

    The process is only read; it is never stopped. Ranges of two moments that overlap are one row of a difference.
    """
    from nativeleak.cli.triage import write_page
    from nativeleak.errors import UsageError
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.listing import ordered, render_maps, render_maps_json

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    if saved or again_s is not None:
        _differences(target, again_s, saved, format_name, output)
        return
    if target is None:
        raise UsageError("maps failed: no process is given", "Name it: -p PID")
    ledger = read_ledger(target)
    pieces = ordered(ledger, order)
    write_page(render_maps_json(ledger, pieces) if format_name == "json" else render_maps(ledger, pieces), output)


def _differences(
    target: int | None, again_s: float | None, saved: tuple[Path, ...], format_name: str, output: str | None
) -> None:
    """Compare two moments, each read now or from a file."""
    from nativeleak.cli.triage import write_page
    from nativeleak.errors import UsageError
    from nativeleak.triage.difference import (
        differences,
        moment_of,
        read_moment,
        render_changes,
        render_changes_json,
    )
    from nativeleak.triage.ledger import read_ledger

    n_moments = len(saved) + (0 if target is None else 1 if again_s is None else 2)
    if n_moments != 2 or (again_s is not None and target is None):
        raise UsageError(
            "a difference takes two moments",
            "Give -p PID --again 10s, or -p PID --diff FILE, or --diff BEFORE --diff AFTER.",
        )
    moments = [read_moment(path) for path in saved]
    if target is not None:
        moments.append(moment_of(read_ledger(target)))
        if again_s is not None:
            time.sleep(again_s)
            moments.append(moment_of(read_ledger(target)))
    before, after = moments
    changes = differences(before.pieces, after.pieces)
    render = render_changes_json if format_name == "json" else render_changes
    write_page(render(before, after, changes), output)
