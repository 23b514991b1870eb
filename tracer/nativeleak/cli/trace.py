"""``nativeleak trace``: record a live process, then report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nativeleak.cli.after_trace import look_for_holders
from nativeleak.cli.census import count_heaps, record_census
from nativeleak.cli.completion import complete_pids
from nativeleak.cli.config import known_libraries
from nativeleak.cli.final_report import ReportOptions, report_on
from nativeleak.cli.grouped import EVERYDAY, EXPERT, LIMITS, REPORT, WHAT, GroupedCommand, GroupedOption
from nativeleak.cli.lines import check_lines
from nativeleak.cli.live import make_reporter
from nativeleak.cli.looks import EarlyEnd
from nativeleak.cli.params import (
    AFFIX,
    AUTO_DISTANCE,
    CONTEXT,
    DURATION,
    LIBRARY_HELP,
    OVERHEAD,
    SAMPLE,
    SIZE,
    STRETCH,
    ns_pid_options,
    resolve_pids,
)
from nativeleak.cli.progress import LineProgress
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits, SyscallHooks
from nativeleak.engines.options import Budget, TraceOptions, Unwind
from nativeleak.engines.registry import AUTO, NAMES
from nativeleak.errors import UsageError
from nativeleak.probes.returns import Returns
from nativeleak.reports.formats import FORMAT_NAMES, check_terminal, find_format
from nativeleak.runtimes.frames import use_libraries
from nativeleak.session.choose import run_trace

_MAX_DURATION_S = 366 * 86400.0
_INTERVAL_S = 10.0
_BLOCKLESS = ("strace", "pmap")
_MIN_INTERVAL_S = 0.1
_N_SNAPSHOTS = 20
_MODES = {
    "session": AttachMode.SESSION,
    "multi": AttachMode.MULTI,
    "perf": AttachMode.PERF,
    "tracefs": AttachMode.TRACEFS,
}
_CALLS = {
    "fentry": (SyscallHooks.FENTRY,),
    "trampolines": (SyscallHooks.FENTRY,),
    "tracepoints": (SyscallHooks.TRACEPOINTS, SyscallHooks.RAW),
}


_Command = TypeVar("_Command", bound=Callable[..., object])


def _check_format(ctx: click.Context, _param: click.Parameter, name: str) -> str:
    """Refuse before the trace, not after it, a report that the terminal cannot show."""
    if ctx.params["opens"]:
        if name != "html":
            raise UsageError(f"--open is for --format html, not for {name}", "add --format html")
    elif name != "none":
        report = f"nativeleak report FILE.nlk --format {name} -o OUT"
        remedy = f"redirect standard output, or use --format none and then: {report}"
        check_terminal(find_format(name), is_terminal=sys.stdout.isatty(), remedy=remedy)
    return name


def option(group: str, *declarations: str, **facts: Any) -> Callable[[_Command], _Command]:
    """An option of the help's group."""
    return click.option(*declarations, cls=GroupedOption, group=group, **facts)


@click.command(
    "trace",
    context_settings=CONTEXT,
    cls=GroupedCommand,
    short_help="Trace a live process, then report its memory.",
    epilog="""\b
Examples:
  nativeleak trace -p 4711 --duration 10m
  nativeleak trace -p 4711 --duration 1h -o leak.nlk --min-size 64K
  nativeleak trace -p 4711 --duration 1h --holders   and who holds the blocks at its end, and which are lost
  nativeleak trace -p 4711 --format folded | flamegraph.pl > leak.svg
  nativeleak trace -p 4711 --duration 10m --format html --open
  nativeleak trace -p 4711 --engine pmap             which region grows; works without root on your own processes
  nativeleak trace --input strace.txt                output of strace -f -k -Y -ttt -e trace=%memory,%process
Ctrl-C ends the trace and prints the report; a second Ctrl-C exits at once.""",
)
@option(EVERYDAY, "-p", "--pid", "pids", type=int, multiple=True, metavar="PID", shell_complete=complete_pids,
        help="Process to trace. Repeat for several.")  # fmt: skip
@option(EVERYDAY, "--duration", type=DURATION, metavar="TIME",
        help="How long to trace: 90s, 10m, 1h30m. [default: until Ctrl-C]")  # fmt: skip
@option(EVERYDAY, "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
        help="File of the recording. [default: nativeleak-PID-TIME.nlk]")  # fmt: skip
@option(EVERYDAY, "--format", "format_", type=click.Choice([*FORMAT_NAMES, "none"]), default=FORMAT_NAMES[0],
        show_default=True, callback=_check_format,
        help="Format of the report at the end; none: no report.")  # fmt: skip
@option(EVERYDAY, "--min-size", type=SIZE, default=0, metavar="SIZE",
        help="Ignore smaller heap allocations. Saves memory, not overhead: the probe still runs.")  # fmt: skip
@option(EVERYDAY, "--max-overhead", type=OVERHEAD, default=5.0, metavar="PERCENT",
        help="CPU budget of the probes, spent over the whole trace: a percentage of the target's CPU time, or of 0.4 "
        "of a core, whichever is more (5%: at least 2% of a core). Where it does not pay for every allocation all the "
        "time, they are recorded in windows. `off` disables the limit. [default: 5%]")  # fmt: skip
@ns_pid_options
@option(WHAT, "--input", "inputs", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
        help="Read recorded output of strace, or listings of pmap or smaps, instead of tracing. Repeat for several "
        "listings, or files of strace -ff.")  # fmt: skip
@option(WHAT, "--maps-only", is_flag=True,
        help="Trace only mmap and brk, without allocator probes (Go, stripped static programs).")  # fmt: skip
@option(WHAT, "--allocator", "allocators", type=AFFIX, multiple=True, metavar="PREFIX",
        help="Also watch PREFIXmalloc, PREFIXcalloc, PREFIXfree and so on, of whichever object has them; PREFIX*SUFFIX "
        "where the names end alike too. Repeat for several. Known allocators are found without it.")  # fmt: skip
@option(WHAT, "--max-size", type=SIZE, default=0, metavar="SIZE", help="Ignore larger heap allocations.")
@option(WHAT, "--blocks", is_flag=True,
        help="Record the addresses of outstanding heap blocks at the end, for `nativeleak holders --with FILE`. "
        "Engine bpf.")  # fmt: skip
@option(WHAT, "--holders", is_flag=True,
        help="Look at the end, while the target runs, who holds these blocks and which are lost; implies "
        "--blocks. Ctrl-C ends the look alone.")  # fmt: skip
@option(WHAT, "--census", is_flag=True,
        help="Walk the heap before and after the trace: by how many blocks it grew, and whether the call sites explain "
        "them. glibc, musl, jemalloc.")  # fmt: skip
@option(WHAT, "--force", is_flag=True, help="Overwrite an existing recording.")
@option(LIMITS, "--sample", type=SAMPLE, default=0, metavar="SIZE",
        help="Record one heap block per SIZE bytes on average; totals become estimates. `auto` takes as many samples "
        "as --max-overhead pays for. [default: every block]")  # fmt: skip
@option(LIMITS, "--sample-above", type=SIZE, default=0, metavar="SIZE",
        help="Always record blocks of this size or more. [default: the SIZE of --sample]")  # fmt: skip
@option(LIMITS, "--max-blip", type=STRETCH, default=0.1, metavar="TIME",
        help="Longest stretch in which the probes take more than a fifth of the time of the target's busy threads; "
        "0 forbids such stretches. [default: 0.1s]")  # fmt: skip
@option(LIMITS, "--max-memory", type=SIZE, default=0, metavar="SIZE",
        help="Memory limit for the tracer and its kernel maps together, and for the report at the end. Allocations "
        "that do not fit are reported as lost. [default: set by the limits below]")  # fmt: skip
@option(LIMITS, "--max-allocations", type=click.IntRange(1000, 1 << 27), default=1 << 20, show_default=True,
        metavar="N", help="Maximum outstanding allocations.")  # fmt: skip
@option(LIMITS, "--max-sites", type=click.IntRange(16, 1 << 22), default=1 << 16, show_default=True, metavar="N",
        help="Maximum call sites (thread + stack); unmapping sites have the same limit.")  # fmt: skip
@option(LIMITS, "--max-threads", type=click.IntRange(1, 1 << 22), default=1 << 15, show_default=True, metavar="N",
        help="Maximum threads alive at a time.")  # fmt: skip
@option(LIMITS, "--max-depth", type=click.IntRange(2, abi.MAX_FRAMES), default=127, show_default=True, metavar="N",
        help="Maximum frames of a stack.")  # fmt: skip
@option(LIMITS, "--budget", type=DURATION, default="60s", show_default=True, metavar="TIME",
        help="Time limit of the look of --holders.")  # fmt: skip
@option(LIMITS, "--interval", type=DURATION, metavar="TIME",
        help="Time between snapshots. [default: 10s, or a 20th of a shorter --duration]")  # fmt: skip
@option(REPORT, "--top", type=click.IntRange(1), default=None, metavar="N",
        help="Show the largest call paths in the text report, at most N.")  # fmt: skip
@option(REPORT, "--by", type=click.Choice(["path", "stack", "site", "thread", "site,thread", "pool"]), default=None,
        help="Show the rows of the report by this key; see nativeleak report --help.")  # fmt: skip
@option(REPORT, "--all", "all_", is_flag=True, help="Text: all parts of the report, not one screen.")
@option(REPORT, "--full-stacks", is_flag=True, help="Text: as --all, with all frames of each stack.")
@option(REPORT, "--open", "opens", is_flag=True, is_eager=True,
        help="HTML: write the page beside the recording and show it in a browser.")  # fmt: skip
@option(REPORT, "--lines", is_flag=True,
        help="Show source lines and inlined functions of native code; see nativeleak report --help.")  # fmt: skip
@option(REPORT, "--compact", is_flag=True, help="JSON: frames and stacks in tables of their own.")
@option(REPORT, "--library", "libraries", multiple=True, metavar="PATTERN", help=LIBRARY_HELP)
@option(REPORT, "--quiet", is_flag=True, help="Print no progress on stderr.")
@option(REPORT, "-v", "--verbose", is_flag=True, help="Print details, and tracebacks of errors.")
@option(EXPERT, "--engine", type=click.Choice(list(NAMES)), default=AUTO, show_default=True,
        help="Tracing backend; `auto` picks the best available.")  # fmt: skip
@option(EXPERT, "--unwind", type=click.Choice([str(u) for u in Unwind]), default="auto", show_default=True,
        help="Walk native stacks by unwind tables or by frame pointers.")  # fmt: skip
@option(EXPERT, "--returns", type=click.Choice([each.value for each in Returns]), default=Returns.AUTO.value,
        show_default=True, help="See allocator calls end by return probes, or at the exits of the functions, which "
        "leaves the target's stack as it is; `auto` takes exits for all but well-known allocators: "
        "docs/returns.md.")  # fmt: skip
@option(EXPERT, "--attach", "attach", type=click.Choice(list(_MODES)), multiple=True,
        help="Way to attach uprobes that may be tried. Repeat for several. [default: the best this kernel "
        "has]")  # fmt: skip
@option(EXPERT, "--syscalls", type=click.Choice(list(_CALLS)),
        help="How to trace system calls. [default: the way that costs other programs least]")  # fmt: skip
@option(EXPERT, "--ring-size", type=SIZE, default=2 << 20, metavar="SIZE",
        help="Ring buffer size; a power of two. [default: 2M]")  # fmt: skip
@option(EXPERT, "--max-new-stacks", type=click.IntRange(1, 1 << 20), default=1 << 14, show_default=True, metavar="N",
        help="Maximum stacks waiting for symbol names.")  # fmt: skip
@click.pass_context
def trace_command(ctx: click.Context, /, **given: object) -> int:
    """Trace the native memory of a live process, then report outstanding memory by thread and call site."""
    options = _options(ctx, given)
    check_lines(bool(given["lines"]))
    libraries: tuple[str, ...] = ctx.params["libraries"]
    # A wrong pattern or configuration is said before the trace, not after it.
    before = count_heaps(options) if given["census"] else []
    with (
        use_libraries(known_libraries(libraries)),
        make_reporter(quiet=bool(given["quiet"]), verbose=bool(given["verbose"])) as reporter,
    ):
        recorded = run_trace(options, reporter)
    if given["census"]:
        with LineProgress(quiet=bool(given["quiet"])) as line, EarlyEnd() as early:
            record_census(recorded, before, count_heaps(options, early), line)
    if given["holders"]:
        with LineProgress(quiet=bool(given["quiet"])) as line:
            look_for_holders(recorded, options, ctx.params["budget"], line)
    if given["format_"] == "none":
        return 0
    flags = {"--all": "all_", "--full-stacks": "full_stacks", "--compact": "compact"}
    # Without --lines no memory goes to debug information: it would be charged to a group that the target shares.
    lines = ("--lines",) if given["lines"] else ("--no-lines",)
    shown = (*(flag for flag, name in flags.items() if given[name]), *lines)
    wanted = ReportOptions(
        str(given["format_"]), given["top"], given["by"], shown, libraries, opens=bool(given["opens"])
    )
    return report_on(recorded, options, wanted)


def _options(ctx: click.Context, given: dict[str, object]) -> TraceOptions:
    pids = resolve_pids(ctx.params["pids"], ctx.params["ns_pid"], ctx.params["ns_of"])
    if not pids and not ctx.params["inputs"]:
        raise click.UsageError("Missing option '-p' / '--pid'.", ctx)
    if len(pids) >= abi.MAX_TARGETS:
        raise UsageError(f"--pid given {len(pids)} times: at most {abi.MAX_TARGETS - 1} processes at once")
    duration_s = ctx.params["duration"]
    interval_s = ctx.params["interval"] or default_interval_s(duration_s)
    if duration_s is not None and duration_s > _MAX_DURATION_S:
        raise UsageError(f"--duration of {duration_s / 86400:.0f} days: at most one year")
    if interval_s < _MIN_INTERVAL_S:
        raise UsageError(f"--interval of {interval_s} s is too short", "give at least 100 ms: --interval 0.1s")
    if ctx.params["max_size"] and ctx.params["max_size"] < ctx.params["min_size"]:
        raise UsageError(
            f"--max-size {ctx.params['max_size']} is less than --min-size {ctx.params['min_size']}: no block fits"
        )
    if ctx.params["census"] and ctx.params["inputs"]:
        raise UsageError("--census walks the heap of a process", "leave out --input, or leave out --census")
    keeps_blocks = ctx.params["blocks"] or ctx.params["holders"]
    if keeps_blocks and (ctx.params["inputs"] or ctx.params["maps_only"] or ctx.params["engine"] in _BLOCKLESS):
        name = "--blocks" if ctx.params["blocks"] else "--holders"
        raise UsageError(
            f"{name} needs probes of the allocators",
            f"leave out --input, --maps-only and --engine, or leave out {name}",
        )
    chooses_distance = ctx.params["sample"] == AUTO_DISTANCE
    if chooses_distance and not ctx.params["max_overhead"]:
        raise UsageError(
            "--sample auto with --max-overhead off: there is no budget to choose the distance of samples from",
            "give a budget, such as --max-overhead 5%, or a distance, such as --sample 512K",
        )
    _check_sampling(ctx.params["sample"], ctx.params["sample_above"])
    output = ctx.params["output"] or Path(
        f"nativeleak-{pids[0] if pids else 'input'}-{time.strftime('%Y%m%d-%H%M%S')}.nlk"
    )
    if ctx.params["ring_size"] & (ctx.params["ring_size"] - 1):
        raise UsageError(f"--ring-size {ctx.params['ring_size']}: must be a power of two")
    return TraceOptions(
        pids=pids,
        output=output,
        duration_s=duration_s,
        interval_s=interval_s,
        min_size=ctx.params["min_size"],
        max_size=ctx.params["max_size"],
        budget=Budget(
            max_overhead_pct=ctx.params["max_overhead"],
            max_blip_s=ctx.params["max_blip"],
            max_memory_bytes=ctx.params["max_memory"],
            sample_bytes=0 if chooses_distance else ctx.params["sample"],
            sample_above=ctx.params["sample_above"],
            chooses_distance=chooses_distance,
        ),
        max_depth=ctx.params["max_depth"],
        unwind=Unwind(ctx.params["unwind"]),
        limits=Limits(
            n_targets=len(pids),
            n_allocations=ctx.params["max_allocations"],
            n_sites=ctx.params["max_sites"],
            n_threads=ctx.params["max_threads"],
            n_new_stacks=ctx.params["max_new_stacks"],
            ring_bytes=ctx.params["ring_size"],
        ),
        maps_only=ctx.params["maps_only"],
        overwrite=ctx.params["force"],
        keeps_blocks=keeps_blocks,
        engine=ctx.params["engine"],
        inputs=ctx.params["inputs"],
        modes=tuple(_MODES[name] for name in ctx.params["attach"]) or tuple(AttachMode),
        returns=Returns(ctx.params["returns"]),
        allocators=ctx.params["allocators"],
        calls=_CALLS.get(ctx.params["syscalls"], tuple(SyscallHooks)),
        given=_as_given(given),
    )


def _as_given(given: dict[str, object]) -> dict[str, str]:
    """Options that are not at their defaults of nothing, for the recording."""
    words = {name: str(value) for name, value in given.items() if value not in (None, False, (), 0)}
    return words | ({"sample": "auto"} if given["sample"] == AUTO_DISTANCE else {})


def _check_sampling(sample_bytes: int, sample_above: int) -> None:
    if sample_bytes not in (0, AUTO_DISTANCE) and not abi.MIN_SAMPLE_RATE <= sample_bytes <= abi.MAX_SAMPLE_RATE:
        raise UsageError(
            f"--sample {sample_bytes}: between {abi.MIN_SAMPLE_RATE} (1 KiB) and {abi.MAX_SAMPLE_RATE} (256 MiB)",
            "512K is a good start; 0 keeps every block",
        )
    if sample_above and not sample_bytes:
        raise UsageError("--sample-above needs --sample: without it every block is recorded")


def default_interval_s(duration_s: float | None) -> float:
    """Seconds between snapshots: 10, or less if a short trace would have too few to show growth."""
    return _INTERVAL_S if duration_s is None else min(_INTERVAL_S, max(_MIN_INTERVAL_S, duration_s / _N_SNAPSHOTS))
