"""Asks a child of bounded memory for source lines and inlined functions, and takes whatever it answers in time."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from nativeleak import children
from nativeleak.symbols.demangle import demangle

_WAIT_S: Final = 120.0
"""For all modules together: the debug information of a large browser takes half a minute."""
_MAX_ENDED: Final = 4
"""So many modules may end the child; then it is not started again."""
_MAX_PLACES: Final = 64
"""Most functions that are taken for one address."""


class Place(NamedTuple):
    """A function at a source line.

    Attributes:
        file: Full path as the compiler wrote it; empty if it is not known.
        line: Counted from 1; 0 if it is not known.
    """

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Addresses of one module.

    Attributes:
        build_id: In hex.
        files: That may be the module or its debug file, best first.
        addresses: As the module's own ELF addresses count them.
    """

    module: str
    build_id: str
    files: Sequence[str]
    addresses: Sequence[int]


@dataclass(frozen=True, slots=True)
class Found:
    """Lines of one module.

    Attributes:
        why: Why there are none; empty where there are some.
        places: By address; innermost function first, the last one is that of the machine code.
    """

    module: str
    why: str = ""
    places: Mapping[int, Sequence[Place]] = field(default_factory=dict)


def find_lines(wanted: Sequence[Wanted], kept: Path | None = None) -> list[Found]:
    """The lines of some modules, in their order.

    Args:
        wanted: The modules.
        kept: Folder of tables by build id, made where it is missing; None: none is kept.
    """
    if kept is not None:
        with contextlib.suppress(OSError):
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = kept if _is_ours(kept) else None
    found: list[Found] = []
    n_ended = 0
    while len(found) < len(wanted) and n_ended < _MAX_ENDED:
        left = wanted[len(found) :]
        answers, why = _ask(left, kept)
        found += [_found(each, answer) for each, answer in zip(left, answers, strict=False)]
        if len(found) < len(wanted):
            found.append(Found(wanted[len(found)].module, why))
            n_ended += 1
    return found + [Found(each.module, "not looked for") for each in wanted[len(found) :]]


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put a table there."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def kept_folder() -> Path:
    """Where tables are kept: below XDG_CACHE_HOME if that is set, else in /var/cache for root, else in the home."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if chosen.startswith("/"):
        return Path(chosen) / "nativeleak" / "lines"
    return (Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache") / "nativeleak" / "lines"


def _ask(wanted: Sequence[Wanted], kept: Path | None) -> tuple[list[Any], str]:
    """Answers of one child, and why there are no more."""
    modules = [
        {"build_id": each.build_id, "files": list(each.files), "addresses": list(each.addresses)} for each in wanted
    ]
    # Nobody is asked over the network unless the user named a server.
    urls = os.environ.get("DEBUGINFOD_URLS", "").split()
    request = json.dumps({"modules": modules, "kept": os.fspath(kept) if kept else "", "urls": urls}).encode()
    with tempfile.TemporaryFile() as answers:
        child = children.start(
            children.python_module("nativeleak.symbols.lines.child"),
            stdin=subprocess.PIPE,
            stdout=answers,
            stderr=subprocess.DEVNULL,
        )
        why = "its debug information could not be read"
        try:
            child.communicate(request, timeout=_WAIT_S)
        except subprocess.TimeoutExpired:
            why = f"its debug information takes more than {_WAIT_S:.0f} s"
        finally:
            child.kill()
            child.wait()
        answers.seek(0)
        whole = [line for line in answers if line.endswith(b"\n")]
    return [json.loads(line) for line in whole[: len(wanted)]], why


def _found(wanted: Wanted, answer: Any) -> Found:
    places = {
        int(address): tuple(Place(demangle(name), file, line) for name, file, line in rows[:_MAX_PLACES])
        for address, rows in answer["lines"].items()
    }
    return Found(wanted.module, answer["why"], places)
