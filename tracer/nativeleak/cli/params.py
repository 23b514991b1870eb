"""Option types that several verbs share."""

from __future__ import annotations

from typing import Any

import click

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


SIZE = SizeType()
OVERHEAD = OverheadType()
DURATION = DurationType()
