"""Shows a page in the user's browser."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import webbrowser
from pathlib import Path

from nativeleak.reports.names import printable


def open_page(path: Path) -> bool:
    """Show a page in a browser, as the user who called sudo where that is so; says on stderr where that cannot be.

    Returns:
        Whether a browser was asked to show it.
    """
    is_shown = _as_caller(path) if _caller() is not None else _has_screen() and _shown(path.absolute().as_uri())
    if not is_shown:
        text = f"no browser can be started here; the page is {printable(str(path))}"
        print(f"nativeleak: {text}", file=sys.stderr, flush=True)  # noqa: T201
    return is_shown


def _has_screen() -> bool:
    """Whether a window can appear: a browser in the terminal would show none of the pictures."""
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _shown(url: str) -> bool:
    try:
        return webbrowser.open(url)
    except (OSError, webbrowser.Error):
        return False


def _caller() -> tuple[int, int] | None:
    """User and group of whoever called sudo; None where no one did."""
    if os.geteuid() != 0:
        return None
    try:
        return int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None


def _give(path: Path, user: int, group: int) -> None:
    """Make a user the owner of a file that is ours alone: no link to another file is followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid():
            os.fchown(descriptor, user, group)
    finally:
        os.close(descriptor)


def _as_caller(path: Path) -> bool:
    """Give the page to the caller of sudo and open it in that user's session: no browser runs as root."""
    caller, opener = _caller(), shutil.which("xdg-open")
    if caller is None:
        return False
    user, group = caller
    try:
        _give(path, user, group)
        if opener is None or not _has_screen():
            return False
        done = subprocess.run(
            [opener, str(path.absolute())],
            user=user,
            group=group,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
