"""Shows a page in the user's browser: never as root, and after sudo in the session of whoever called it."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nativeleak import children
from nativeleak.errors import UsageError
from nativeleak.reports.names import printable

_OPENERS: Final = ("xdg-open", "wslview")
"""They ask the user's own browser to show a file, and end at once."""
_TIMEOUT_S: Final = 20.0
_SCREEN: Final = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "BROWSER", "WSL_INTEROP")
"""Variables by which an opener finds the user's screen and browser."""


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int
    home: str


def check_page_options(format_name: str, output: object, *, redact: bool, opens: bool, example: str) -> None:
    """Refuse options of a page where there is none, and a page on a terminal.

    Args:
        format_name: Form of the output.
        output: Where it goes; None: standard output.
        redact: Whether the page is to hide names.
        opens: Whether it is to be shown.
        example: Name of a file, for the message.

    Raises:
        UsageError: They do not fit together.
    """
    if (redact or opens) and format_name != "html":
        raise UsageError(f"{'--redact' if redact else '--open'} is for --format html", "Add --format html -o FILE")
    if opens and output is None:
        raise UsageError("--open needs a file to show", "Add -o FILE")
    if format_name == "html" and output is None and sys.stdout.isatty():
        raise UsageError("a terminal cannot show a page", f"Name a file: -o {example}")


def open_page(path: Path) -> bool:
    """Show a page in a browser; says on stderr where that cannot be.

    Returns:
        Whether a browser was asked to show it.
    """
    caller = _caller()
    if caller is not None:
        _give(path, caller)
    why = "as root no browser is started" if os.geteuid() == 0 and caller is None else "no browser can be started here"
    is_shown = (os.geteuid() != 0 or caller is not None) and _ask(path, caller)
    if not is_shown:
        print(f"nativeleak: {why}; the page is {printable(str(path))}", file=sys.stderr, flush=True)  # noqa: T201
    return is_shown


def _ask(path: Path, caller: _User | None) -> bool:
    opener = next(filter(None, map(children.find_program, _OPENERS)), None)
    if opener is None or not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_INTEROP")):
        return False
    variables = {name: os.environ[name] for name in _SCREEN if name in os.environ}
    how: dict[str, Any] = {}
    if caller is not None:
        variables.pop("BROWSER", None)
        session = f"/run/user/{caller.uid}"
        variables |= {"HOME": caller.home, "XDG_RUNTIME_DIR": session}
        variables.setdefault("DBUS_SESSION_BUS_ADDRESS", f"unix:path={session}/bus")
        how = {"user": caller.uid, "group": caller.gid, "extra_groups": []}
    try:
        done = children.run(
            [opener, str(path.absolute())],
            env=children.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            **how,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _caller() -> _User | None:
    """Whoever called sudo; None where no one did, or root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwuid(int(os.environ["SUDO_UID"]))
    except (KeyError, ValueError, OverflowError):
        return None
    return _User(entry.pw_uid, entry.pw_gid, entry.pw_dir) if entry.pw_uid else None


def _give(path: Path, caller: _User) -> None:
    """Make a user the owner of a file that is ours alone: no link to another file is followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid():
            os.fchown(descriptor, caller.uid, caller.gid)
    finally:
        os.close(descriptor)


def check_page(format_name: str, *, redact: bool, hidden: tuple[str, ...], opens: bool, output: Path) -> None:
    """Refuse options of the page for other formats, which would show what they should hide.

    Raises:
        UsageError: One of them is given without --format html, or --open without a file.
    """
    given = [name for name, is_given in (("--redact", redact), ("--hide", hidden), ("--open", opens)) if is_given]
    if given and format_name != "html":
        raise UsageError(f"{given[0]} is for --format html, not for {format_name}", "add --format html -o report.html")
    if opens and str(output) == "-":
        raise UsageError("--open needs a file to show", "add -o report.html")
