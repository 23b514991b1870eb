"""The child that reads debug information: it may take much memory, and a damaged file may end it.

Run as a module. It reads a request (JSON, see ``lookup``) from standard input and writes one JSON object a line for
each module, in their order: ``{"file": path or null, "why": text, "lines": {address: [[function, file, line], ...]}}``,
functions innermost first; the last one is the function that the compiler made, the others are inlined into it.

symbolic reads DWARF and makes a table by address, the symcache, which is kept by build id. Its addresses begin at the
file's first segment: the table's name has the address of that.
Source: https://getsentry.github.io/symbolic/
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from nativeleak.process.namespaces import open_regular
from nativeleak.symbols.debugfiles import DEBUG_FOLDERS, debug_paths
from nativeleak.symbols.elf import ElfError, ElfFile, FileSource

NO_FILE: Final = "its file is not here"
NO_DEBUG: Final = "no debug information"

_MAX_DATA_BYTES: Final = 1 << 30
"""Memory of its own; mapped files do not count."""
_MAX_KEPT_BYTES: Final = 512 << 20
"""Size of all kept tables."""
_MAX_FETCHED_BYTES: Final = 1 << 30
_FETCH_S: Final = 20
_CHUNK: Final = 1 << 20

Places = dict[str, list[list[Any]]]


def main() -> None:
    """Answer one request."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA_BYTES, _MAX_DATA_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.load(sys.stdin)
    kept = Path(request["kept"]) if request["kept"] else None
    for module in request["modules"]:
        answer = lookup(module["build_id"], module["files"], module["addresses"], kept, request["urls"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def lookup(
    build_id: str, files: Sequence[str], addresses: Iterable[int], kept: Path | None, urls: Sequence[str]
) -> dict[str, Any]:
    """The lines of some addresses of one module.

    Args:
        build_id: Of the module, in hex.
        files: That may be it or its debug file, best first.
        addresses: As the module's own ELF addresses count them.
        kept: Folder of tables by build id; None for none.
        urls: Of debuginfod servers; empty unless the user named some.
    """
    from symbolic.symcache import SYMCACHE_LATEST_VERSION

    for known in kept.glob(f"{build_id}.{SYMCACHE_LATEST_VERSION}.*.symcache") if kept is not None else ():
        with contextlib.suppress(Exception):
            base = int(known.name.split(".")[2], 16)
            return {"file": str(known), "why": "", "lines": _lines(_open_table(str(known)), base, addresses)}
    is_here = False
    for name, fd, base in _open_all(build_id, files, kept, urls):
        is_here = True
        try:
            cache = _symcache(fd)
        finally:
            os.close(fd)
        if cache is not None:
            if kept is not None:
                _keep(cache, kept / f"{build_id}.{SYMCACHE_LATEST_VERSION}.{base:x}.symcache")
            return {"file": name, "why": "", "lines": _lines(cache, base, addresses)}
    return {"file": None, "why": NO_DEBUG if is_here else NO_FILE, "lines": {}}


class _Matching(NamedTuple):
    """An open file of the right build id."""

    path: str
    fd: int
    base: int


def _open_all(build_id: str, files: Sequence[str], kept: Path | None, urls: Sequence[str]) -> Iterator[_Matching]:
    """Files of that build id, open; the debug files that they name come after all that were asked for."""
    linked: list[str] = []
    for path in files:
        found, links = _open_matching(path, build_id)
        linked += links
        if found is not None:
            yield found
    fetched = (str(_fetch(url, build_id, kept) or "") for url in urls if kept is not None)
    for path in chain(dict.fromkeys(linked), filter(None, fetched)):
        found, _ = _open_matching(path, build_id)
        if found is not None:
            yield found


def _open_matching(path: str, build_id: str) -> tuple[_Matching | None, list[str]]:
    """The file if it is the one of that build id, and paths of the debug files it may have."""
    try:
        fd = open_regular(path)
    except (OSError, ValueError):
        return None, []
    try:
        with contextlib.closing(ElfFile(FileSource(os.dup(fd)))) as elf:
            if elf.build_id == build_id:
                base = min((each.vaddr for each in elf.loads), default=0)
                return _Matching(path, fd, base), list(debug_paths(elf, path, DEBUG_FOLDERS))
    except (ElfError, OSError, ValueError):
        pass
    os.close(fd)
    return None, []


def _symcache(fd: int) -> Any:
    """The table of an open file; None where it has no debug information, or damaged one."""
    from symbolic.debuginfo import Archive

    try:
        for each in Archive.open(f"/proc/self/fd/{fd}").iter_objects():
            if "debug" in each.features:
                return each.make_symcache()
    except Exception:
        return None
    return None


def _open_table(path: str) -> Any:
    from symbolic import symcache

    table: Any = symcache.SymCache
    return table.open(path)


def _lines(cache: Any, base: int, addresses: Iterable[int]) -> Places:
    found: Places = {}
    for address in addresses:
        rows = cache.lookup(address - base) if address >= base else ()
        places = [[each.symbol, each.full_path or "", each.line] for each in rows]
        if any(line for _, _, line in places):
            found[str(address)] = places
    return found


def _keep(cache: Any, table: Path) -> None:
    """Write a table where the next report finds it; the oldest go where they take too much room."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=table.parent, delete=False) as file:
        try:
            cache.dump_into(file)
            file.flush()
            Path(file.name).replace(table)
        finally:
            Path(file.name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        tables = sorted(table.parent.glob("*.*"), key=lambda path: path.stat().st_mtime, reverse=True)
        room = _MAX_KEPT_BYTES
        for path in tables:
            room -= path.stat().st_size
            if room < 0 and path != table:
                path.unlink()


def _fetch(url: str, build_id: str, kept: Path) -> Path | None:
    """The debug file that a debuginfod server has; None where it has none. Source: debuginfod(8), webapi."""
    if not url.startswith(("http://", "https://")):
        return None
    target = kept / f"{build_id}.debug"
    if target.is_file():
        return target
    try:
        address = f"{url.rstrip('/')}/buildid/{build_id}/debuginfo"
        with (
            urllib.request.urlopen(address, timeout=_FETCH_S) as answer,  # noqa: S310 - checked above
            tempfile.NamedTemporaryFile(dir=kept, delete=False) as file,
        ):
            try:
                room = _MAX_FETCHED_BYTES
                while chunk := answer.read(min(_CHUNK, room + 1)):
                    room -= len(chunk)
                    if room < 0:
                        return None
                    file.write(chunk)
                file.flush()
                Path(file.name).replace(target)
            finally:
                Path(file.name).unlink(missing_ok=True)
    except (OSError, ValueError):
        return None
    return target


if __name__ == "__main__":
    main()
