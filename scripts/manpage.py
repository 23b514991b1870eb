"""Writes the man page, docs/nativeleak.8, from the options of the command line.

    .venv/bin/python scripts/manpage.py > docs/nativeleak.8

A unit test compares the committed page with this output: after a change of an option or its help, run it again.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from nativeleak import __version__
from nativeleak.cli.grouped import EVERYDAY, GroupedCommand
from nativeleak.cli.main import cli

_ARGUMENTS = {
    "report": r" \fIFILE\fR...",
    "triage": r" \fIFILE\fR...",
    "peek": r" \fIADDRESS\fR[-\fIEND\fR]",
    "diff": r" \fIBEFORE\fR [\fIAFTER\fR]",
}
_STATUSES = (
    (0, "A report was made, also after an early Ctrl-C or after the target exited during the trace."),
    (1, "A failure at run time."),
    (2, "Wrong usage."),
    (3, "This machine or these rights cannot do what was asked."),
    (4, "The target does not exist, or was gone before the first snapshot."),
    (130, "A second Ctrl-C ended the command at once."),
)
_FILES = (
    (
        "nativeleak-PID-TIME.nlk",
        "The recording of a trace without -o: an SQLite database that only its owner can read.",
    ),
    (
        "/etc/nativeleak.toml, ~/.config/nativeleak/config.toml",
        "Configuration: libraries that are never named as a suspect; see --library.",
    ),
    ("/var/cache/nativeleak, ~/.cache/nativeleak", "Unwind tables and probe places of objects seen before."),
)


def page() -> str:
    """The whole page in roff, with the macros of man(7)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    root = click.Context(cli, info_name="nativeleak", **cli.context_settings)
    verbs = [(name, cli.get_command(root, name)) for name in cli.list_commands(root)]
    yield f'.TH NATIVELEAK 8 "" "nativeleak {__version__}" "System Administration"'
    yield ".SH NAME"
    yield r"nativeleak \- find what is eating a process\(aqs native memory"
    yield ".SH SYNOPSIS"
    for name, _ in verbs:
        yield f".B nativeleak {name}"
        yield r"[\fIOPTIONS\fR]" + _ARGUMENTS.get(name, "")
        yield ".br"
    yield ".SH DESCRIPTION"
    for paragraph in (cli.help or "").split("\b")[0].strip().split("\n\n"):
        yield from (".PP", _text(paragraph))
    for name, command in verbs:
        assert command is not None
        yield from _verb(name, command, root)
    yield ".SH EXIT STATUS"
    for status, text in _STATUSES:
        yield from (".TP", f".B {status}", _text(text))
    yield ".SH FILES"
    for path, text in _FILES:
        yield from (".TP", f".I {_escape(path)}", _text(text))
    yield ".SH SEE ALSO"
    yield from (".BR strace (1),", ".BR pmap (1),", ".BR bpf (2)")


def _verb(name: str, command: click.Command, root: click.Context) -> Iterator[str]:
    ctx = click.Context(command, info_name=name, parent=root)
    yield f".SH NATIVELEAK {name.upper()}"
    yield _text(command.help or "")
    if isinstance(command, GroupedCommand):
        groups = command.options_by_group(ctx)
    else:
        groups = {EVERYDAY: [param for param in command.get_params(ctx) if isinstance(param, click.Option)]}
    for heading, options in groups.items():
        yield f'.SS "{heading}"'
        for option in options:
            if "--help" not in option.opts:
                yield from _option(option)
    if command.epilog:
        yield '.SS "Examples"'
        yield from (".nf", *map(_escape, _examples(command.epilog)), ".fi")


def _examples(epilog: str) -> list[str]:
    lines = epilog.replace("\b", "").strip().splitlines()
    return [line for line in lines if line != "Examples:"]


def _option(option: click.Option) -> Iterator[str]:
    names = ", ".join(rf"\fB{_escape(name)}\fR" for name in (*option.opts, *option.secondary_opts))
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    value = "" if option.is_flag else "|".join(map(str, choices)) or option.metavar or option.type.name.upper()
    default = f" [default: {option.default}]" if option.show_default else ""
    yield from (".TP", names + (rf" \fI{_escape(value)}\fR" if value else ""))
    yield _text((option.help or "") + default)


def _text(text: str) -> str:
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return r"\&" + escaped if escaped.startswith(".") else escaped


if __name__ == "__main__":
    print(page(), end="")
