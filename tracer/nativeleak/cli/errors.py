"""Prints errors for people, on stderr."""

from __future__ import annotations

import sys

from nativeleak.errors import NativeleakError


def print_error(error: NativeleakError) -> None:
    """Print the failure on one line, then the remedy. Both may contain names that the target chose."""
    from nativeleak.reports.names import printable

    print(f"nativeleak: {printable(error.what)}", file=sys.stderr)  # noqa: T201
    for line in error.remedy.splitlines():
        print(f"  {printable(line)}", file=sys.stderr)  # noqa: T201
