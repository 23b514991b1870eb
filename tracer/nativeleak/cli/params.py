"""Option types and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from nativeleak.cli.grouped import WHAT, GroupedOption
from nativeleak.errors import UsageError
from nativeleak.probes.families import Affix
from nativeleak.process.pidns import find_ns_pid
from nativeleak.units import parse_duration, parse_percent, parse_size


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
OVERHEAD = OverheadType()
DURATION = DurationType()
STRETCH = StretchType()
AFFIX = AffixType()

_Command = TypeVar("_Command", bound=Callable[..., object])


def ns_pid_options(command: _Command) -> _Command:
    """Options that name a process by its PID inside a container."""
    of_container = click.option("--ns-of", type=int, metavar="PID", cls=GroupedOption, group=WHAT,
                                help="Any process of the container that --ns-pid refers to.")  # fmt: skip
    in_container = click.option("--ns-pid", type=int, metavar="PID", cls=GroupedOption, group=WHAT,
                                help="The process with this PID inside a container.")  # fmt: skip
    return in_container(of_container(command))


def resolve_pids(pids: Sequence[int], ns_pid: int | None, ns_of: int | None) -> tuple[int, ...]:
    """PIDs in our PID namespace, each once.

    Args:
        pids: PIDs in our namespace.
        ns_pid: A PID in a namespace below ours.
        ns_of: Any process of that namespace, by its PID in ours.

    Raises:
        NativeleakError: No process, or several, have that PID there.
    """
    if ns_pid is None:
        if ns_of is not None:
            raise UsageError(f"--ns-of {ns_of} needs --ns-pid", "give the PID inside the container: --ns-pid")
        return tuple(dict.fromkeys(pids))
    return tuple(dict.fromkeys((*pids, find_ns_pid(ns_pid, ns_of))))
