"""Option types and options that several verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from nativeleak.cli.grouped import WHAT, GroupedOption
from nativeleak.errors import UsageError
from nativeleak.probes.families import Affix
from nativeleak.process.pidns import find_ns_pid
from nativeleak.units import parse_duration, parse_percent, parse_size

AUTO_DISTANCE: Final = -1
"""Value of ``--sample auto``."""


class SizeType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``4096``, ``64K``, ``16MiB`` -> bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes, or a usage error."""
        if isinstance(value, int):
            return value
        try:
            n_bytes = parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        # The kernel side keeps 64 bits; no allocator grants more than half of that range.
        if n_bytes >= 1 << 63:
            self.fail(f"larger than any address space: {value!r}", param, ctx)
        return n_bytes


class SampleType(SizeType):
    """A size, or ``auto`` -> ``AUTO_DISTANCE``."""

    name = "sample"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes, ``AUTO_DISTANCE``, or a usage error."""
        return AUTO_DISTANCE if value == "auto" else super().convert(value, param, ctx)


class DurationType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``90``, ``90s``, ``10m``, ``1h30m`` -> seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, or a usage error."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class StretchType(DurationType):
    """``0``, or as a duration -> seconds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, or a usage error."""
        return 0.0 if value == "0" else super().convert(value, param, ctx)


class OverheadType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``2%``, ``0.5``, ``off`` -> percent; 0.0 for off."""

    name = "overhead"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Percent, or a usage error."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_percent(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AffixType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``PREFIX`` or ``PREFIX*SUFFIX`` -> what the names of a family of functions have in common."""

    name = "prefix"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Affix:
        """The affix, or a usage error."""
        if isinstance(value, Affix):
            return value
        try:
            return Affix.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of every command, for click."""

LIBRARY_HELP: Final = (
    "Never name these as a suspect: a module, package or namespace, libacme*.so*, com.acme.framework.*, acme::*. "
    "With ! in front: name them. Repeat for several."
)
"""Of --library."""

SIZE = SizeType()
SAMPLE = SampleType()
OVERHEAD = OverheadType()
DURATION = DurationType()
STRETCH = StretchType()
AFFIX = AffixType()

_CHOICE: Final = "nativeleak.choice"
_Command = TypeVar("_Command", bound=Callable[..., object])


def ns_pid_options(command: _Command) -> _Command:
    """Options that name a process otherwise than by its PID here: inside a container, by name, user, group, container.

    ``resolve_pids`` knows the values of all of them; a command takes only the first two as parameters.
    """
    options = [
        _choice_option("container", "ID", "The process in the container whose ID begins so."),
        _choice_option("cgroup", "PATH", "The process in this control group or below it; the last parts are enough."),
        _choice_option("user", "USER", "The process of this user: a name or a number."),
        _choice_option("name", "NAME", "The process of this name, or its script, main class or archive; * and ? are "
                       "wildcards. If several match, they are listed, the largest first."),
        click.option("--ns-of", type=int, metavar="PID", cls=GroupedOption, group=WHAT,
                     help="Any process of the container that --ns-pid refers to."),
        click.option("--ns-pid", type=int, metavar="PID", cls=GroupedOption, group=WHAT,
                     help="The process with this PID inside a container."),
    ]  # fmt: skip
    for option in options:
        command = option(command)
    return command


def _choice_option(name: str, metavar: str, text: str) -> Callable[[_Command], _Command]:
    def keep(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        ctx.meta.setdefault(_CHOICE, {})[name] = value or ""

    return click.option(f"--{name}", f"chosen_{name}", metavar=metavar, cls=GroupedOption, group=WHAT, callback=keep,
                        expose_value=False, help=text)  # fmt: skip


def resolve_pids(pids: Sequence[int], ns_pid: int | None, ns_of: int | None) -> tuple[int, ...]:
    """PIDs in our PID namespace, each once; of the options of ``ns_pid_options`` too.

    Args:
        pids: PIDs in our namespace.
        ns_pid: A PID in a namespace below ours.
        ns_of: Any process of that namespace, by its PID in ours.

    Raises:
        NativeleakError: No process is the one that is meant, or several are.
    """
    ctx = click.get_current_context(silent=True)
    given: dict[str, str] = ctx.meta.get(_CHOICE, {}) if ctx is not None else {}
    if any(given.values()):
        return _chosen(given, has_pid=bool(pids) or ns_pid is not None)
    if ns_pid is None:
        if ns_of is not None:
            raise UsageError(f"--ns-of {ns_of} needs --ns-pid", "give the PID inside the container: --ns-pid")
        return tuple(dict.fromkeys(pids))
    return tuple(dict.fromkeys((*pids, find_ns_pid(ns_pid, ns_of))))


def _chosen(given: dict[str, str], *, has_pid: bool) -> tuple[int, ...]:
    """The one process that is named; asks which one where several are, and a person is there to answer."""
    from nativeleak.processes.choice import Choice, find_matching, listed  # only here: psutil

    choice = Choice(**given)
    if has_pid:
        raise UsageError(f"a PID and {choice.words} are given", "Name the process by one of them.")
    found = find_matching(choice)
    if len(found) == 1:
        _say(f"nativeleak: {choice.words}: {found[0].title} (PID {found[0].pid})")
        return (found[0].pid,)
    said = f"{choice.words}: {len(found)} processes match"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(said, "\n".join((*listed(found), f"Choose one: -p {found[0].pid}")))
    for line in (f"nativeleak: {said}", *listed(found)):
        _say(line)
    pids = [str(process.pid) for process in found]
    answer = click.prompt("PID", default=pids[0], type=click.Choice(pids), show_choices=False, err=True)
    return (int(answer),)


def _say(line: str) -> None:
    """A line on stderr; names in it are those that processes gave themselves."""
    from nativeleak.reports.names import printable

    click.echo(printable(line), err=True)
