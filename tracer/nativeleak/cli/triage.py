"""``nativeleak triage``: reads files that people have at hand."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nativeleak.cli.params import CONTEXT

_EPILOG = """\b
Examples:
  nativeleak triage --input nmt.txt                 jcmd PID VM.native_memory: categories in words
  nativeleak triage --input before.txt after.txt    two listings of pmap -x or smaps: what has grown
  nativeleak triage --input hs_err_pid4711.log      what a crashed JVM says about its memory
  nativeleak triage --input jeprof.*.heap --format json | jq .inputs
\b
Kinds of files: VM.native_memory (summary, detail, their differences), GC.heap_info, jmap -heap, jhsdb jmap --heap,
hs_err, VM.info, System.map, pmap of every flavour, smaps, maps, smaps_rollup, malloc_info, malloc_stats, statistics and
heap profiles of jemalloc and gperftools, strace, logs with OOM kills. They may be packed (gzip, bzip2, xz).
Exit status: 0 a file was read, 2 none was."""


@click.command(
    "triage",
    context_settings=CONTEXT,
    epilog=_EPILOG,
    short_help="Read files at hand: NMT, heap, pmap, allocators.",
)
@click.option("--input", "inputs", type=click.Path(path_type=Path), multiple=True, metavar="FILE...",
              help="Read this file. Further files may follow.")  # fmt: skip
@click.argument("more", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def triage_command(
    inputs: tuple[Path, ...],
    more: tuple[Path, ...],
    format_name: str,
    *,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Say what files about a process's memory say: sizes under one set of names, and what is missing.

    A file of another kind is named for what it is, with the command that reads it. No rights are needed.
    """
    from nativeleak.errors import EXIT_OK, EXIT_USAGE, UsageError
    from nativeleak.inputs.registry import as_json, read_inputs
    from nativeleak.inputs.text import as_text
    from nativeleak.reports.names import printable
    from nativeleak.reports.output import write_stdout

    paths = (*inputs, *more)
    if not paths:
        raise UsageError("triage without a file", "give one: nativeleak triage --input FILE")
    found = read_inputs(paths)
    if format_name == "json":
        write_stdout(json.dumps(as_json(found), indent=2) + "\n")
    else:
        write_stdout("".join(f"{printable(line)}\n" for line in as_text(found)))
    return EXIT_OK if any(each.reading is not None for each in found) else EXIT_USAGE
