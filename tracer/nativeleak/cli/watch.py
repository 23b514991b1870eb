"""``nativeleak watch``: the resident memory of a process over time, with alarms."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

import click

from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, DURATION, OVERHEAD, SIZE, ns_pid_options, resolve_pids
from nativeleak.units import parse_size

_EPILOG: Final = """\b
Examples:
  nativeleak watch -p 4711                              a live screen; lines where stdout is no terminal
  nativeleak watch -p 4711 --every 1m --output last.jsonl    for days; the last minutes are there if it is killed
  nativeleak watch -p 4711 --rss-above 6G --trace 10m   trace as soon as it holds more than 6 GiB
  nativeleak watch -p 4711 --cgroup-above 90% --run 'jcmd $NATIVELEAK_PID VM.native_memory > nmt.txt'
  nativeleak watch -p 4711 --growth-above 10M/min --run ./page-somebody
  nativeleak watch -p 4711 --duration 1h --format html -o watch.html --open
  nativeleak watch --name billing --cgroup-above 90% --trace 10m
  nativeleak watch -p 4711 --duration 1h --format json | jq -c 'select(.kind == "reading").size_classes[0]'
\b
Exit status: 0 also when the process ended meanwhile, 3 no right to read it, 4 no such process."""

_RATE: Final = re.compile(r"(.+?)/ *(s|sec|min|m|h|hour|d|day)")
_SECONDS: Final = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}


class RateType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``10M/min``, ``1MiB/s``, ``500K/h`` -> bytes a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Bytes a second, or a usage error."""
        if isinstance(value, (int, float)):
            return float(value)
        match = _RATE.fullmatch(value.strip().lower())
        if match is None:
            self.fail(f"not a rate: {value!r} (write 10M/min, 1MiB/s or 500K/h)", param, ctx)
        try:
            n_bytes = parse_size(match[1])
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if n_bytes <= 0:
            self.fail(f"a rate must be more than zero: {value!r}", param, ctx)
        return n_bytes / _SECONDS[match[2]]


@click.command(
    "watch",
    context_settings=CONTEXT,
    epilog=_EPILOG,
    short_help="Watch a process's resident memory over time, with alarms.",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.option("--every", "every_s", type=DURATION, default="10s", show_default=True, metavar="TIME",
              help="Time between two lines.")  # fmt: skip
@click.option("--duration", "duration_s", type=DURATION, metavar="TIME",
              help="How long: 10m, 1h30m, 7d. [default: until the process ends, or Ctrl-C]")  # fmt: skip
@click.option("--rss-above", type=SIZE, metavar="SIZE", help="Alarm when resident memory is above SIZE.")
@click.option("--growth-above", type=RateType(), metavar="RATE",
              help="Alarm when resident and swapped memory grows by more than RATE over the last ten minutes, for "
              "certain: the lower end of the 95 % interval counts. 10M/min, 1M/s.")  # fmt: skip
@click.option("--cgroup-above", type=OVERHEAD, metavar="PERCENT",
              help="Alarm when a memory group of the process uses more than PERCENT of its limit, page cache left "
              "out.")  # fmt: skip
@click.option("--run", "command", default="", metavar="COMMAND",
              help="Run this by the shell at an alarm; NATIVELEAK_PID, _ALARM, _TEXT and _RSS_BYTES are "
              "set.")  # fmt: skip
@click.option("--trace", "trace_s", type=DURATION, metavar="TIME",
              help="Trace for so long at an alarm, into nativeleak-PID-DATE.nlk.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Keep the last ten minutes in FILE, as JSON lines, or with --format html the page: once a minute, "
              "and when the process ends.")  # fmt: skip
@click.option("--jcmd", is_flag=True,
              help="Ask a JVM for its Native Memory Tracking at each full reading, and say which categories "
              "grow.")  # fmt: skip
@click.option("--format", "format_name", type=click.Choice(["text", "json", "html"]), default="text",
              show_default=True, help="Form of the output; json is one object a line, html one page that loads "
              "nothing.")  # fmt: skip
@click.option("--redact", is_flag=True, help="HTML: hide paths, arguments, network addresses and names of hosts.")
@click.option("--open", "opens", is_flag=True,
              help="HTML: show the page in a browser at the end; needs -o FILE.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print no progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def watch_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    every_s: float,
    duration_s: float | None,
    rss_above: int | None,
    growth_above: float | None,
    cgroup_above: float | None,
    command: str,
    trace_s: float | None,
    output: Path | None,
    format_name: str,
    *,
    redact: bool,
    opens: bool,
    jcmd: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Watch which lines of a process's resident memory grow, and which sizes of blocks, without tracing.

    The process is only read; it is never stopped. The kernel's counts are read every second, all lines as often as 1 %
    of a core allows. When the process ends, the last lines and how it ended are printed.
    """
    from nativeleak.cli.opening import check_page_options, open_page
    from nativeleak.cli.watch_view import HtmlView, make_view
    from nativeleak.errors import EXIT_OK, UsageError
    from nativeleak.watch.options import LEAST_EVERY_S, Alarms, WatchOptions
    from nativeleak.watch.watcher import Watch

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    if target is None:
        raise UsageError("watch failed: no process is given", "Name it: -p PID")
    if every_s < LEAST_EVERY_S:
        raise UsageError(f"--every of {every_s} s is too short", "give at least 100 ms: --every 0.1s")
    alarms = Alarms(rss_above, growth_above, cgroup_above or None)
    if (command or trace_s is not None) and not alarms.is_any:
        raise UsageError(
            f"{'--run' if command else '--trace'} needs an alarm",
            "say when: --rss-above SIZE, --growth-above RATE or --cgroup-above PERCENT",
        )
    check_page_options(format_name, output, redact=redact, opens=opens, example="watch.html")
    is_page = format_name == "html"
    options = WatchOptions(
        pid=target, every_s=every_s, duration_s=duration_s, alarms=alarms, command=command, trace_s=trace_s,
        output=None if is_page else output, asks_jvm=jcmd,
        is_quiet=quiet or (format_name == "text" and sys.stdout.isatty()),
    )  # fmt: skip
    view = HtmlView(output, redacts=redact, quiet=quiet) if is_page else make_view(format_name, quiet=quiet)
    try:
        Watch(options, view).run()
    finally:
        view.close()
    if opens and output is not None:
        open_page(output)
    return EXIT_OK
