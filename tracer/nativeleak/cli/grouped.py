"""Help in groups: options of a verb under headings, the everyday ones first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

EVERYDAY: Final = "Options"
WHAT: Final = "What to trace"
LIMITS: Final = "Limits and sampling"
REPORT: Final = "Report"
EXPERT: Final = "Expert"

GROUPS: Final = (EVERYDAY, WHAT, LIMITS, REPORT, EXPERT)
"""Headings in the order of the help."""


class GroupedOption(click.Option):
    """An option under a heading.

    Args:
        declarations: Its names.
        group: One of ``GROUPS``.
        others: As ``click.Option`` takes them.
    """

    def __init__(self, declarations: Sequence[str], group: str = EVERYDAY, **others: Any) -> None:
        super().__init__(declarations, **others)
        self.group = group


class GroupedCommand(click.Command):
    """A verb whose help has a section for each group; options without a group are everyday options."""

    def options_by_group(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """The options that the help shows, by heading, in the order in which they are declared."""
        groups: dict[str, list[click.Option]] = {heading: [] for heading in GROUPS}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and not param.hidden:
                groups[getattr(param, "group", EVERYDAY)].append(param)
        return {heading: options for heading, options in groups.items() if options}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a group."""
        for heading, options in self.options_by_group(ctx).items():
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            with formatter.section(heading):
                formatter.write_dl(records)
