"""Entry point: the verbs, and exit statuses."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from nativeleak import __version__
from nativeleak.cli.errors import print_error
from nativeleak.cli.params import CONTEXT
from nativeleak.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, NativeleakError
from nativeleak.process.shortage import shortage_behind

_VERBS = {
    "trace": ("nativeleak.cli.trace", "trace_command"),
    "report": ("nativeleak.cli.report", "report_command"),
    "diff": ("nativeleak.cli.diff", "diff_command"),
    "triage": ("nativeleak.cli.triage", "triage_command"),
    "watch": ("nativeleak.cli.watch", "watch_command"),
    "holders": ("nativeleak.cli.holders", "holders_command"),
    "oom": ("nativeleak.cli.oom", "oom_command"),
    "top": ("nativeleak.cli.top", "top_command"),
    "peek": ("nativeleak.cli.peek", "peek_command"),
    "maps": ("nativeleak.cli.maps", "maps_command"),
    "doctor": ("nativeleak.cli.doctor", "doctor_command"),
    "demo": ("nativeleak.cli.demo", "demo_command"),
}


class LazyGroup(click.Group):
    """Imports a verb's module when the verb is used, so that the recorder does not load what reports need."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return list(_VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, imported now; None for an unknown name."""
        if cmd_name not in _VERBS:
            return None
        module_name, attribute = _VERBS[cmd_name]
        module = __import__(module_name, fromlist=[attribute])
        command: click.Command = getattr(module, attribute)
        return command


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT,
    epilog='Tab completion for bash: eval "$(_NATIVELEAK_COMPLETE=bash_source nativeleak)" (zsh and fish likewise).',
)
@click.version_option(__version__, prog_name="nativeleak")
def cli() -> None:
    """Find what is eating a process's native memory, on a live production machine.

    No restart, no flag, no agent; the process keeps running.

    \b
      nativeleak trace -p PID --duration 10m    trace, then report
      nativeleak report FILE.nlk                report again, in any format
      nativeleak diff OLD.nlk NEW.nlk           what holds more, by call path and thread pool
      nativeleak triage -p PID                  say what the memory is, now, without tracing
      nativeleak holders -p PID                 say who holds it, and which blocks are lost
      nativeleak triage --input FILE            what a file at hand says: NMT, pmap, hs_err, ...
      nativeleak watch -p PID                   which part of the memory grows; alarms
      nativeleak oom                            who was killed when memory ran out
      nativeleak top                            processes by memory and growth, to start without a PID
      nativeleak peek -p PID ADDRESS            what a range of its memory holds
      nativeleak doctor -p PID                  check what works here, and how to fix the rest
    """  # noqa: D301 - \b is click's mark for lines that stay as they are


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with the status of the interface contract."""
    _open_closed_streams()
    sys.exit(run(sys.argv[1:] if args is None else args))


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed.

    Otherwise a file opened later gets the number of that stream, and a child writes its messages into the file.
    """
    closed = [fd for fd in range(3) if not _is_open(fd)]
    for fd in closed:
        os.open(os.devnull, os.O_RDONLY if fd == 0 else os.O_WRONLY)  # takes the lowest free number, which is fd
        os.set_inheritable(fd, True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - they stay open to the end
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if 1 in closed:
        print("nativeleak: standard output is closed: a report goes only to the file of -o", file=sys.stderr)  # noqa: T201


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def run(args: list[str]) -> int:
    """Run the command line; returns the exit status."""
    verbose = any(a == "--verbose" or (a.startswith("-v") and set(a[1:]) == {"v"}) for a in args)
    if not args:
        print(cli.get_help(click.Context(cli, info_name="nativeleak", **cli.context_settings)), file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    try:
        result: Any = cli.main(args=args, prog_name="nativeleak", standalone_mode=False)
        return result if isinstance(result, int) else EXIT_OK
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.ClickException as error:
        return _usage_error(error)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone away. Python must not try to flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except NativeleakError as error:
        if verbose:
            import traceback  # here: whoever makes no mistake does without it

            traceback.print_exc()
        print_error(error)
        return error.exit_status
    except Exception as error:
        if verbose:
            raise
        if (shortage := _shortage(error, args[0])) is not None:
            print_error(shortage)
            return EXIT_FAILURE
        print_error(
            NativeleakError(f"{type(error).__name__}: {error}", "this is a bug; run again with -v for the traceback")
        )
        return EXIT_FAILURE


def _shortage(error: Exception, verb: str) -> NativeleakError | None:
    """The lack of descriptors or memory behind an error; None for any other error."""
    found = shortage_behind(error)
    if found is None:
        return None
    lack, remedy = found
    if verb == "report":
        remedy += "\nor make the report from the recording elsewhere: nativeleak report FILE"
    return NativeleakError(f"{verb} failed: {lack}", remedy)


def _usage_error(error: click.ClickException) -> int:
    print(f"nativeleak: {error.format_message()}", file=sys.stderr)  # noqa: T201
    if isinstance(error, click.UsageError) and error.ctx is not None:
        print(f"  {error.ctx.get_usage()}", file=sys.stderr)  # noqa: T201
        print(f"  `{error.ctx.command_path} --help` explains the options", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE
