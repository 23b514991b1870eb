"""``nativeleak oom``: OOM kills, as logs tell of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nativeleak.cli.params import CONTEXT, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPILOG = """\b
Examples:
  nativeleak oom                                    the journal of this machine, or its kernel log
  nativeleak oom --log /var/log/syslog              with its rotated ages, packed ones too
  nativeleak oom --log dmesg.txt --format json      a log from elsewhere
  nativeleak oom --jvm-flags '-Xmx6g -XX:MaxMetaspaceSize=256m' --threads 400
Exit status: 0 also if nobody was killed, 1 no log could be read, 3 reading it needs more rights."""


@click.command("oom", context_settings=CONTEXT, epilog=_EPILOG, short_help="Say who was killed when memory ran out.")
@click.option("--log", "logs", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="Read this log and its rotated ages (FILE.1, FILE.2.gz); - is standard input. Repeat for "
              "several.")  # fmt: skip
@click.option("--no-rotated", is_flag=True, help="Read only the files that are named.")
@click.option("--journal", is_flag=True, help="Read the journal of systemd.")
@click.option("--kmsg", is_flag=True, help="Read the kernel's buffer, /dev/kmsg.")
@click.option("--jvm-flags", metavar="FLAGS", help="Flags of the JVM that was killed: what they add up to, against the "
              "limit that was met.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1 << 22), metavar="N", help="Threads of that JVM, for their stacks.")
@click.option("--limit", type=SIZE, metavar="SIZE", help="Limit for --jvm-flags. [default: that of the last kill, or "
              "the machine]")  # fmt: skip
@click.option("--format", "format_name", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def oom_command(
    logs: tuple[Path, ...],
    jvm_flags: str | None,
    threads: int | None,
    limit: int | None,
    format_name: str,
    *,
    no_rotated: bool,
    journal: bool,
    kmsg: bool,
    verbose: bool,  # noqa: ARG001 - main looks for -v
) -> int:
    """Say who was killed when, by whom, at which limit, and what it held.

    Reads the kernel's lines of Linux 2.6.9 to 6.18, and those of systemd-oomd, earlyoom, nohang, lmkd and Kubernetes.
    """
    from nativeleak.errors import EXIT_OK, UsageError
    from nativeleak.inputs import jvm_flags as jvm
    from nativeleak.inputs.oom import OomReader
    from nativeleak.inputs.oom.text import as_text, limit_of
    from nativeleak.reports.names import printable
    from nativeleak.reports.output import write_stdout

    if bool(logs) + journal + kmsg > 1:
        raise UsageError("--log, --journal and --kmsg exclude each other", "give one of them")
    reader = OomReader()
    source, lines = _lines(logs, no_rotated=no_rotated, journal=journal, kmsg=kmsg)
    for line in lines:
        reader.feed(line)
    reader.finish()
    document: dict[str, object] = {
        "schema": "nativeleak.oom/1",
        "source": source,
        "lines": reader.n_lines,
        "notes": reader.notes,
    }
    document["events"] = [event.as_json() for event in reader.events]
    words: list[str] = []
    if jvm_flags is not None:
        limit_bytes, name = (limit, "the limit") if limit else limit_of(reader.events) or _machine(logs)
        parts = jvm.parts_of(jvm_flags, limit_bytes, threads)
        document["jvm"] = jvm.as_json(parts, limit_bytes, name)
        words = jvm.in_words(parts, limit_bytes, name)
    if format_name == "json":
        write_stdout(json.dumps(document, indent=2) + "\n")
    else:
        text = [*as_text(source, reader), *words]
        write_stdout("".join(f"{printable(line)}\n" for line in text))
    return EXIT_OK


def _lines(logs: tuple[Path, ...], *, no_rotated: bool, journal: bool, kmsg: bool) -> tuple[str, Iterator[str]]:
    from nativeleak.inputs.oom import sources
    from nativeleak.process.kernel_log import KMSG

    if journal:
        return "journal", sources.read_journal()
    if kmsg:
        return str(KMSG), sources.read_kmsg()
    if not logs:
        return sources.read_whatever_is_here()
    if logs == (Path("-"),):
        stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 - not ours to close
        return "standard input", (line.rstrip("\n") for line in stdin)
    paths = logs if no_rotated else tuple(dict.fromkeys(path for log in logs for path in sources.rotated(log)))
    return ", ".join(map(str, paths)), sources.read_logs(paths)


def _machine(logs: tuple[Path, ...]) -> tuple[int | None, str]:
    """Memory of this machine; of a log from elsewhere it is unknown."""
    from nativeleak.inputs.oom.text import read_machine_bytes

    return (None, "") if logs else (read_machine_bytes(), "this machine")
