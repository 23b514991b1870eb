"""``nativeleak triage``: what the resident memory of a process is, now; and what files at hand say of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nativeleak import __version__
from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, ns_pid_options, resolve_pids

if TYPE_CHECKING:
    from nativeleak.holders.result import HoldersReport

_EPILOG = """\b
Examples:
  nativeleak triage -p 4711                         the answer on one screen
  nativeleak triage -p 4711 --all                   every verdict, every part of every line
  nativeleak triage -p 4711 --holders               and who holds it; see nativeleak holders
  nativeleak triage -p 4711 --format json | jq '.verdicts[0].text'
  nativeleak triage --input nmt.txt                 jcmd PID VM.native_memory: categories in words
  nativeleak triage --input before.txt after.txt    two listings of pmap -x or smaps: what has grown
  nativeleak triage --input hs_err_pid4711.log      what a crashed JVM says about its memory
  nativeleak triage --input jeprof.*.heap --format json | jq .inputs
\b
Kinds of files: VM.native_memory (summary, detail, their differences), GC.heap_info, jmap -heap, jhsdb jmap --heap,
hs_err, VM.info, System.map, pmap of every flavour, smaps, maps, smaps_rollup, malloc_info, malloc_stats, statistics and
heap profiles of jemalloc and gperftools, strace, logs with OOM kills. They may be packed (gzip, bzip2, xz).
\b
Exit status: 0 a process or a file was read, 2 no file was, 3 no right to read the process, 4 no such process."""


@click.command(
    "triage",
    context_settings=CONTEXT,
    epilog=_EPILOG,
    short_help="Say what a process's resident memory is, now, or what files at hand say.",
)
@click.option("-p", "--pid", type=int, metavar="PID", shell_complete=complete_pids, help="The process.")
@ns_pid_options
@click.option("--input", "inputs", type=click.Path(path_type=Path), multiple=True, metavar="FILE...",
              help="Read this file, not a process. Further files may follow.")  # fmt: skip
@click.argument("more", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("--holders", "with_holders", is_flag=True, help="Also say who holds the blocks, and which are lost.")
@click.option("--all", "show_all", is_flag=True, help="Show everything, not one screen.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def triage_command(
    pid: int | None,
    ns_pid: int | None,
    ns_of: int | None,
    inputs: tuple[Path, ...],
    more: tuple[Path, ...],
    format_name: str,
    output: str | None,
    *,
    with_holders: bool,
    show_all: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Every resident page of a process in one line: Java heap, malloc in use and retained, stacks, files.

    The process is only read; it is never stopped. Blocks from before this command are counted too. With --input, files
    about a process's memory are read instead, with no rights at all; a file of another kind is named for what it is.
    """
    from nativeleak.errors import UsageError

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    paths = (*inputs, *more)
    if target is not None and paths:
        raise UsageError("triage takes a process or files, not both", "Leave out -p, or the files")
    if target is None and not paths:
        raise UsageError("triage failed: no process is given", "Name it: -p PID; or give files: --input FILE")
    if target is None:
        if with_holders:
            raise UsageError("--holders failed: files do not say who holds memory", "Name a process: -p PID")
        return _triage_files(paths, format_name, output)
    return _triage_process(target, format_name, output, with_holders=with_holders, show_all=show_all)


def _triage_process(pid: int, format_name: str, output: str | None, *, with_holders: bool, show_all: bool) -> int:
    from nativeleak.errors import EXIT_OK
    from nativeleak.triage.as_json import render_json
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.text import render_text
    from nativeleak.triage.verdicts import judge

    ledger = read_ledger(pid)
    verdicts = judge(ledger)
    report = _look_for_holders(pid, ledger.notes) if with_holders else None
    if format_name == "json":
        text = render_json(ledger, verdicts, __version__, report)
    else:
        text = render_text(ledger, verdicts, show_all=show_all)
        if report is not None:
            from nativeleak.holders.text import render_text as render_holders

            text += "\n" + render_holders(report, show_all=show_all)
    write_page(text, output)
    return EXIT_OK


def _look_for_holders(pid: int, notes: list[str]) -> HoldersReport | None:
    """Who holds the blocks; None, and a note, where the heap cannot be walked."""
    from nativeleak.cli.holders import progress
    from nativeleak.heaps.memory import HeapError
    from nativeleak.holders.run import Options, find_who_holds

    say = progress(quiet=False)
    try:
        return find_who_holds(pid, Options(say=say))
    except HeapError as error:
        notes.append(f"who holds the blocks is not known: {error.what}")
        return None
    finally:
        say("")


def _triage_files(paths: Sequence[Path], format_name: str, output: str | None) -> int:
    from nativeleak.errors import EXIT_OK, EXIT_USAGE
    from nativeleak.inputs.registry import as_json, read_inputs
    from nativeleak.inputs.text import as_text

    found = read_inputs(paths)
    lines = [json.dumps(as_json(found), indent=2)] if format_name == "json" else as_text(found)
    write_page("".join(f"{line}\n" for line in lines), output)
    return EXIT_OK if any(each.reading is not None for each in found) else EXIT_USAGE


def write_page(text: str, output: str | None) -> None:
    """Write a page to a file, or to stdout without one."""
    from nativeleak.reports.names import printable
    from nativeleak.reports.output import encode_text, open_file, write_stdout

    safe = "\n".join(printable(line) for line in text.split("\n"))
    if output is None:
        write_stdout(safe)
        return
    with open_file(Path(output)) as file:
        file.write(encode_text(safe))
