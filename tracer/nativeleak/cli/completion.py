"""Values that the shell offers on Tab: processes for ``-p``, thread names of the recording for ``--thread``.

Caveat: names come from traced processes, and the shell puts them on the command line as they are. A name with a
character that a shell could interpret is not offered.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from nativeleak.errors import NativeleakError

_HARMLESS: Final = re.compile(r"[A-Za-z0-9_./:@%+=-]+")


def complete_pids(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """PIDs that begin with ``incomplete``, each with the name of its process."""
    items = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # A kernel thread has no executable.
            if folder.name.startswith(incomplete) and (folder / "exe").readlink():
                comm = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                items.append(CompletionItem(folder.name, help=comm if _HARMLESS.fullmatch(comm) else ""))
    return sorted(items, key=lambda item: int(item.value))


def complete_threads(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Thread names of the recordings that stand on the command line already."""
    from nativeleak.recording import open_recording  # only on Tab

    names: set[str] = set()
    for path in ctx.params.get("files") or ():
        with contextlib.suppress(NativeleakError), open_recording(path) as recording:
            names |= {thread.name for thread in recording.threads.values()}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]
