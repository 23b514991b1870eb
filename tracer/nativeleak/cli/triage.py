"""``nativeleak triage``: what the resident memory of a process is, now; and what files at hand say of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nativeleak import __version__
from nativeleak.cli.completion import complete_pids
from nativeleak.cli.params import CONTEXT, ns_pid_options, resolve_pids

if TYPE_CHECKING:
    from nativeleak.holders.result import HoldersReport
    from nativeleak.triage.jvm_word import Compared, JvmWord
    from nativeleak.triage.lines import Ledger
    from nativeleak.triage.statement import Verdict

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
    from nativeleak.cli.opening import check_page_options, open_page
    from nativeleak.errors import EXIT_OK, UsageError

    target = next(iter(resolve_pids(() if pid is None else (pid,), ns_pid, ns_of)), None)
    paths = (*inputs, *more)
    if target is not None and paths:
        raise UsageError("triage takes a process or files, not both", "Leave out -p, or the files")
    if target is None and not paths:
        raise UsageError("triage failed: no process is given", "Name it: -p PID; or give files: --input FILE")
    check_page_options(format_name, output, redact=redact, opens=opens, example="now.html")
    if target is None:
        if jcmd or asked:
            raise UsageError("--jcmd asks a process, not a file", "Name it: -p PID")
        if with_holders:
            raise UsageError("--holders failed: files do not say who holds memory", "Name a process: -p PID")
        return _triage_files(paths, format_name, output)
    found = _look(target, asked if jcmd or asked else None, with_holders=with_holders)
    write_page(_rendered(found, format_name, redact=redact, show_all=show_all), output)
    if opens and output is not None:
        open_page(Path(output))
    return EXIT_OK


@dataclass(slots=True)
class _Found:
    """What is known of a process; of its JVM and of holders if they were asked for."""

    ledger: Ledger
    verdicts: list[Verdict]
    word: JvmWord | None = None
    compared: Sequence[Compared] = ()
    holders: HoldersReport | None = None


def _look(pid: int, asked: Sequence[str] | None, *, with_holders: bool) -> _Found:
    """Look at a process; ``asked`` is what its JVM is asked beside the usual, None where it is not asked."""
    from nativeleak.triage.children import read_children
    from nativeleak.triage.ledger import read_ledger
    from nativeleak.triage.verdicts import judge

    if asked is None:
        ledger = read_ledger(pid)
        ledger.children = read_children(pid)
        found = _Found(ledger, judge(ledger))
    else:
        from nativeleak.triage import jvm_word

        ledger, word = jvm_word.read_with_jvm(pid, asked)
        ledger.children = read_children(pid)
        verdicts = jvm_word.with_trim(judge(ledger), ledger, word)
        found = _Found(ledger, verdicts, word, jvm_word.compare(ledger, word))
    if with_holders:
        found.holders = _look_for_holders(pid, ledger.notes)
    return found


def _rendered(found: _Found, format_name: str, *, redact: bool, show_all: bool) -> str:
    """Text, JSON or the page."""
    if format_name == "html":
        return _page(found, redact=redact)
    ledger, verdicts, word = found.ledger, found.verdicts, found.word
    if format_name == "json":
        from nativeleak.triage.as_json import holders_keys, render_json

        more: dict[str, Any] = {}
        if word is not None:
            from nativeleak.triage.jvm_word import as_json

            more["jvm_says"] = as_json(word, found.compared)
        if found.holders is not None:
            more |= holders_keys(found.holders)
        return render_json(ledger, verdicts, __version__, more)
    from nativeleak.triage.text import render_text

    text = render_text(ledger, verdicts, show_all=show_all)
    if word is not None:
        from nativeleak.triage.jvm_word import in_words

        text += "\n" + "".join(f"{line}\n" for line in in_words(word, found.compared))
    if found.holders is not None:
        from nativeleak.holders.text import render_text as render_holders

        text += "\n" + render_holders(found.holders, show_all=show_all)
    return text


def _page(found: _Found, *, redact: bool) -> str:
    from nativeleak.reports.html.redact import Redactor
    from nativeleak.triage.as_html import render_html

    redactor = Redactor(is_on=redact)
    redactor.learn_title(found.ledger.target.comm)
    more = []
    if found.word is not None:
        from nativeleak.triage.jvm_html import jvm_section

        more.append(jvm_section(found.word, found.compared, redactor))
    if found.holders is not None:
        from nativeleak.holders.as_html import holders_sections

        more += holders_sections(found.holders, redactor)
    return render_html(found.ledger, found.verdicts, __version__, redactor, more)


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
