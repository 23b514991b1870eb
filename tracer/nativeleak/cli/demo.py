"""``nativeleak demo``: a leaking program, traced, in under a minute."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nativeleak.cli.params import DURATION


@click.command(
    "demo",
    short_help="Trace a leaking program of our own, in under a minute.",
    epilog="""\b
Examples:
  nativeleak demo
  nativeleak demo --duration 30s -o demo.nlk
  nativeleak demo --format folded | flamegraph.pl > demo.svg""",
)
@click.option("--duration", type=DURATION, default="10s", show_default=True, metavar="TIME", help="How long to trace.")
@click.option("--format", "format_name", type=click.Choice(["text", "json", "folded"]), default="text",
              show_default=True, help="Report at the end.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Keep the recording here.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def demo_command(duration: float, format_name: str, output: Path | None, *, verbose: bool) -> int:  # noqa: ARG001
    """Start a program whose threads leak, trace it, and say what the report should show. Takes no compiler, no JDK."""
    from nativeleak.demo.run import DemoOptions, run_demo

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    return run_demo(DemoOptions(duration, format_name, output), say)
