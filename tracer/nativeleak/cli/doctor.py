"""``nativeleak doctor``: what works here, what does not, how to fix it."""

from __future__ import annotations

import sys

import click

from nativeleak.cli.params import ns_pid_options, resolve_pids


@click.command(
    "doctor",
    short_help="Say what works here, what does not, and how to fix it.",
    epilog="""\b
Examples:
  nativeleak doctor               this machine and these rights
  nativeleak doctor -p 4711       and this process
  nativeleak doctor --format json | jq .verdict
Exit status: 0 trace can work, 3 it cannot, 4 there is no process PID.""",
)
@click.option("-p", "--pid", type=int, metavar="PID", help="Look at this process too.")
@ns_pid_options
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def doctor_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    format_name: str,
    *,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Try out what tracing takes, on a child process of its own; PID is only looked at, never probed."""
    from nativeleak.doctor.checks import Outcome, judge
    from nativeleak.doctor.examine import examine
    from nativeleak.doctor.render import render_coloured, render_json, render_text
    from nativeleak.errors import EXIT_CANNOT, EXIT_OK
    from nativeleak.reports.output import write_stdout

    pid = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    findings = examine(pid)
    if format_name == "json":
        write_stdout(render_json(findings.checks, pid))
    elif sys.stdout.isatty():
        from rich.console import Console  # only on a terminal: 14 MB

        Console(highlight=False).print(render_coloured(findings.checks), soft_wrap=True)
    else:
        write_stdout(render_text(findings.checks))
    if findings.refusal is not None:
        raise findings.refusal
    return EXIT_CANNOT if judge(findings.checks).outcome is Outcome.IMPOSSIBLE else EXIT_OK
