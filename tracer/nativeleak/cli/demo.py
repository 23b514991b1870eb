"""``nativeleak demo``: a leaking program, traced, in under a minute."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nativeleak.cli.params import CONTEXT, DURATION
from nativeleak.reports.formats import FORMAT_NAMES


@click.command(
    "demo",
    context_settings=CONTEXT,
    short_help="Trace a leaking demo program, in under a minute.",
    epilog="""\b
Examples:
  nativeleak demo
  nativeleak demo --duration 30s -o demo.nlk
  nativeleak demo --format folded | flamegraph.pl > demo.svg""",
)
@click.option("--duration", type=DURATION, default="10s", show_default=True, metavar="TIME", help="How long to trace.")
@click.option("--format", "format_name", type=click.Choice(FORMAT_NAMES), default=FORMAT_NAMES[0],
              show_default=True, help="Format of the report.")  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Keep the recording in this file."
)
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def demo_command(duration: float, format_name: str, output: Path | None, *, verbose: bool) -> int:  # noqa: ARG001
    """Start a program whose threads leak, trace it, and print the true totals. Needs neither a compiler nor a JDK."""
    from nativeleak.demo.run import DemoOptions, run_demo

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    return run_demo(DemoOptions(duration, format_name, output), say)
