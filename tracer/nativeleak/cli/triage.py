"""``nativeleak triage``: what the resident memory of a process is, now; and what files at hand say of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nativeleak import __version__
from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, ns_pid_options, resolve_pids

if TYPE_CHECKING:
    from nativeleak.holders.result import HoldersReport

JVM_COMMANDS = (
    "GC.class_histogram",
    "System.map",
    "System.trim_native_heap",
    "VM.native_memory detail",
    "VM.native_memory baseline",
    "VM.native_memory summary.diff",
    "VM.native_memory detail.diff",
)
"""Of ``--jcmd-ask``; ``triage.jvm_word.ON_REQUEST`` says what each costs the JVM."""

_EPILOG = """\b
Examples:
  nativeleak triage -p 4711                         the answer on one screen
  nativeleak triage -p 4711 --all                   every verdict, every part of every line
  nativeleak triage -p 4711 --holders               and who holds it; see nativeleak holders
  nativeleak triage -p 4711 --format json | jq '.verdicts[0].text'
  nativeleak triage -p 4711 --jcmd                  what the JVM says itself, beside it
  nativeleak triage -p 4711 --jcmd-ask GC.class_histogram    direct buffers, deflaters, threads as the JVM counts
  nativeleak triage -p 4711 --format html -o now.html --open
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
@click.option("--format", "format_name", type=click.Choice(["text", "json", "html"]), default="text", show_default=True,
              help="Form of the output; html: one page that loads nothing.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("--jcmd", is_flag=True,
              help="Ask the JVM too: flags, heap, NMT, code cache; said beside what is seen from outside. It gets "
              "SIGQUIT once if nobody has attached to it before.")  # fmt: skip
@click.option("--jcmd-ask", "asked", type=click.Choice(JVM_COMMANDS), multiple=True,
              help="Ask the JVM this too. GC.class_histogram stops it for a full collection. Repeat for "
              "several.")  # fmt: skip
@click.option("--redact", is_flag=True, help="HTML: hide paths, arguments, network addresses and names of hosts.")
@click.option("--open", "opens", is_flag=True, help="HTML: show the page in a browser; needs -o FILE.")
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
    jcmd: bool,
    asked: tuple[str, ...],
    redact: bool,
    opens: bool,
    with_holders: bool,
    show_all: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Every resident page of a process in one line: Java heap, malloc in use and retained, stacks, files.

    The process is only read; it is never stopped. Blocks from before this command are counted too. With --input, files
    about a process's memory are read instead, with no rights at all; a file of another kind is named for what it is.
    """
    from nativeleak.errors import EXIT_OK, UsageError

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    paths = (*inputs, *more)
    if target is not None and paths:
        raise UsageError("triage takes a process or files, not both", "Leave out -p, or the files")
    if target is None and not paths:
        raise UsageError("triage failed: no process is given", "Name it: -p PID; or give files: --input FILE")
    if (redact or opens) and format_name != "html":
        raise UsageError(f"{'--redact' if redact else '--open'} is for --format html", "Add --format html -o FILE")
    if opens and output is None:
        raise UsageError("--open needs a file to show", "Add -o FILE")
    if target is None:
        if jcmd or asked:
            raise UsageError("--jcmd asks a process, not a file", "Name it: -p PID")
        if with_holders:
            raise UsageError("--holders failed: files do not say who holds memory", "Name a process: -p PID")
        return _triage_files(paths, format_name, output)
    if format_name == "html":
        if jcmd or asked or with_holders:
            option = "--holders" if with_holders else "--jcmd"
            raise UsageError(f"{option} is for --format text and json", f"Leave out --format html, or {option}")
        _triage_page(target, output, redact=redact, opens=opens)
        return EXIT_OK
    text = _triage_process(
        target, asked if jcmd or asked else None, format_name, with_holders=with_holders, show_all=show_all
    )
    write_page(text, output)
    return EXIT_OK


def _triage_page(pid: int, output: str | None, *, redact: bool, opens: bool) -> None:
    from nativeleak.cli.opening import open_page
    from nativeleak.errors import UsageError
    from nativeleak.reports.html.redact import Redactor
    from nativeleak.triage.as_html import render_html
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.verdicts import judge

    if output is None and sys.stdout.isatty():
        raise UsageError("a terminal cannot show a page", "Name a file: -o triage.html")
    ledger = read_ledger(pid)
    write_page(render_html(ledger, judge(ledger), __version__, Redactor(is_on=redact)), output)
    if opens and output is not None:
        open_page(Path(output))


def _triage_process(
    pid: int, asked: Sequence[str] | None, format_name: str, *, with_holders: bool, show_all: bool
) -> str:
    """Text or JSON of a process; ``asked`` is what its JVM is asked beside the usual, None where it is not asked."""
    from nativeleak.triage.as_json import holders_keys, render_json
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.text import render_text
    from nativeleak.triage.verdicts import judge

    more: dict[str, Any] = {}
    said = ""
    if asked is None:
        ledger = read_ledger(pid)
        verdicts = judge(ledger)
    else:
        from nativeleak.triage import jvm_word

        ledger, word = jvm_word.read_with_jvm(pid, asked)
        verdicts = jvm_word.with_trim(judge(ledger), ledger, word)
        compared = jvm_word.compare(ledger, word)
        more |= {"jvm_says": jvm_word.as_json(word, compared)}
        said += "\n" + "".join(f"{line}\n" for line in jvm_word.in_words(word, compared))
    report = _look_for_holders(pid, ledger.notes) if with_holders else None
    if report is not None:
        from nativeleak.holders.text import render_text as render_holders

        more |= holders_keys(report)
        said += "\n" + render_holders(report, show_all=show_all)
    if format_name == "json":
        return render_json(ledger, verdicts, __version__, more)
    return render_text(ledger, verdicts, show_all=show_all) + said


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
    from nativeleak.errors import EXIT_OK, EXIT_USAGE, UsageError
    from nativeleak.inputs.registry import as_json, read_inputs
    from nativeleak.inputs.text import as_text

    if format_name == "html":
        raise UsageError("--format html shows a process, not files", "Leave it out, or use --format json")
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
