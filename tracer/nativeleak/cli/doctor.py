"""``nativeleak doctor``: checks the machine and a process for tracing."""

from __future__ import annotations

import sys

import click

from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, ns_pid_options, resolve_pids


@click.command(
    "doctor",
    context_settings=CONTEXT,
    short_help="Check this machine: what works, and how to fix the rest.",
    epilog="""\b
Examples:
  nativeleak doctor               check this machine and your rights
  nativeleak doctor -p 4711       check process 4711 too
  nativeleak doctor --format json | jq .verdict
Exit status: 0 trace can work, 3 trace cannot work, 4 no process has that PID.""",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="Check this process too.")
@ns_pid_options
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def doctor_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    format_name: str,
    *,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Try every way of tracing on a child process of our own. The process PID is only read, never probed."""
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
