"""``--lines``: source lines and inlined functions of native code in a report."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nativeleak.errors import UsageError
from nativeleak.reports.names import printable

if TYPE_CHECKING:
    from nativeleak.recording import Recording  # a recorder does without its reader

_MAX_TOLD: Final = 6
_REMEDY: Final = "Install it where nativeleak is: pip install symbolic"


def check_lines(wanted: bool | None) -> None:
    """Refuse ``--lines`` where the library that reads debug information is missing.

    Raises:
        UsageError: It is asked for and not installed.
    """
    if wanted and not _is_there():
        raise UsageError("--lines needs the Python package symbolic, which is not installed", _REMEDY)


def with_lines(recording: Recording, folders: Sequence[Path], *, tells: bool) -> Recording:
    """The recording with source lines, as far as there are any.

    Args:
        recording: The whole of it, or a moment of it.
        folders: Where the user says that binaries or debug files are.
        tells: Whether to name on standard error the modules without lines.

    Raises:
        RecordingError: The recording is damaged.
    """
    if not _is_there():
        return recording
    from nativeleak.recording.lines import RecordingWithLines  # here: a trace without it does without its modules

    lined = RecordingWithLines(recording, folders)
    without = [each for each in lined.modules if not each.places]
    if tells:
        n_found = len(lined.modules) - len(without)
        found = f"{n_found} of {len(lined.modules)} modules" if lined.modules else "no module has a build id"
        click.echo(f"source lines: {found}", err=True)
        for each in without[:_MAX_TOLD]:
            click.echo(f"  {printable(each.module)}: {each.why or 'none of these addresses has a line'}", err=True)
        if len(without) > _MAX_TOLD:
            click.echo(f"  and {len(without) - _MAX_TOLD} more without lines", err=True)
    return lined if len(without) < len(lined.modules) else recording


def _is_there() -> bool:
    return find_spec("symbolic") is not None
