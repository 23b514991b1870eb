"""``nativeleak top``: the processes of the machine by memory and growth."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from nativeleak.cli.params import CONTEXT, DURATION

if TYPE_CHECKING:
    from nativeleak.processes.choice import Choice
    from nativeleak.processes.top import Row


@click.command(
    "top",
    context_settings=CONTEXT,
    short_help="List the machine's processes by memory and growth.",
    epilog="""\b
Examples:
  nativeleak top                        refreshed every 2 seconds; Ctrl-C ends it
  nativeleak top --sort growth          what grows, since this command began
  nativeleak top --once --top 5         one table, for a script or a mail
  nativeleak top --name 'java' --count 10 --every 1m --format json
Growth counts memory and swap. JSON: one object a line for each look. Exit status: 0, 2 for wrong usage.""",
)
@click.option("--every", "every_s", type=DURATION, default="2s", show_default=True, metavar="TIME",
              help="Time between two looks.")  # fmt: skip
@click.option("--count", "n_looks", type=click.IntRange(1), metavar="N", help="End after N looks.")
@click.option("--once", is_flag=True, help="Look once: --count 1.")
@click.option("--sort", "order", type=click.Choice(["rss", "anon", "swap", "growth", "since-start"]), default="rss",
              show_default=True, help="Order; growth is that since the first look.")  # fmt: skip
@click.option("--top", "n_rows", type=click.IntRange(1), metavar="N",
              help="Processes to show. [default: as many as fit; 20 without a terminal]")  # fmt: skip
@click.option("--name", default="", metavar="NAME", help="Only processes of this name; * and ? are wildcards.")
@click.option("--user", default="", metavar="USER", help="Only processes of this user.")
@click.option("--cgroup", default="", metavar="PATH", help="Only processes in this control group or below it.")
@click.option("--container", default="", metavar="ID", help="Only processes of this container.")
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def top_command(
    every_s: float,
    n_looks: int | None,
    order: str,
    n_rows: int | None,
    name: str,
    user: str,
    cgroup: str,
    container: str,
    format_name: str,
    *,
    once: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> None:
    """List processes by resident memory, anonymous memory, swap and growth: where to start without a PID.

    Growth is counted from the first look of this command; "since start" is the mean over the life of a process.
    """
    from nativeleak.processes.choice import Choice

    looks = _looks(Choice(name, user, cgroup, container), order, every_s, 1 if once else n_looks)
    try:
        if format_name == "json":
            _as_json(looks, n_rows)
        elif sys.stdout.isatty() and not once:
            _live(looks, n_rows)
        else:
            _as_lines(looks, n_rows or 20)
    except KeyboardInterrupt:
        return


def _looks(choice: Choice, order: str, every_s: float, n_looks: int | None) -> Iterator[list[Row]]:
    """The processes again and again, in order; ends after so many looks, or never."""
    from nativeleak.processes.choice import find_matching
    from nativeleak.processes.reading import read_processes
    from nativeleak.processes.top import Growth, ordered

    growth, next_s, done = Growth(), time.monotonic(), 0
    while True:
        processes = find_matching(choice) if choice else read_processes()
        yield ordered(growth.rows(processes, time.monotonic()), order)
        done += 1
        if done == n_looks:
            return
        # A look that took longer than the time between two is not made up for.
        next_s = max(next_s + every_s, time.monotonic())
        time.sleep(next_s - time.monotonic())


def _as_json(looks: Iterator[list[Row]], n_rows: int | None) -> None:
    from nativeleak.processes.top import as_object
    from nativeleak.reports.output import write_stdout

    for rows in looks:
        write_stdout(json.dumps(as_object(rows, n_rows or len(rows))) + "\n")


def _as_lines(looks: Iterator[list[Row]], n_rows: int) -> None:
    from nativeleak.processes.top import render_lines
    from nativeleak.reports.names import printable
    from nativeleak.reports.output import write_stdout

    for number, rows in enumerate(looks):
        lines = [printable(line) for line in render_lines(rows, n_rows, rows)]
        write_stdout(("\n" if number else "") + "\n".join(lines) + "\n")


def _live(looks: Iterator[list[Row]], n_rows: int | None) -> None:
    from rich.console import Console, Group  # only on a terminal: 14 MB
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from nativeleak.processes.top import HEADINGS, cells, summary
    from nativeleak.reports.names import printable

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for rows in looks:
            table = Table(box=None, pad_edge=False, expand=False)
            for heading in HEADINGS:
                is_left = heading in ("user", "name")
                table.add_column(heading, justify="left" if is_left else "right", no_wrap=True, overflow="ellipsis")
            for row in rows[: n_rows or max(1, console.height - 3)]:
                style = "bold" if (row.growth or 0) > 0 else ""
                table.add_row(*(Text(printable(text), style=style) for text in cells(row)))
            live.update(Group(Text(summary(rows)), table, Text("Ctrl-C ends", style="dim")), refresh=True)
