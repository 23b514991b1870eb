"""Separate debug files of an object: by build id, by debug link, and the small one inside the object itself.

Scope: finding and opening them, first in the target's file system, then in ours. The file must belong to the object: it
must have the same build id, or, if the object has none, the checksum of the debug link.

Source: "Debugging Information in Separate Files" and "MiniDebugInfo" in the GDB manual.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from nativeleak.process.namespaces import open_in_root, open_regular
from nativeleak.symbols.budget import Budget
from nativeleak.symbols.elf import BytesSource, ElfError, ElfFile, FileSource

DEBUG_FOLDERS: Final = ("/usr/lib/debug",)
MAX_DEBUGDATA_BYTES: Final = 64 << 20
"""Size limit of an unpacked ``.gnu_debugdata``; the largest libraries need a few MiB."""

_MAX_PACKED_BYTES: Final = 32 << 20
_MAX_CHECKED_BYTES: Final = 1 << 30
_CHUNK: Final = 1 << 20

Opener = Callable[[str], int]
"""Opens a path in one file system; raises OSError."""


def debug_openers(pid: int) -> tuple[Opener, ...]:
    """Ways to open files: in the target's file system, then in ours."""
    return partial(open_in_root, pid), open_regular


def find_debug_file(
    elf: ElfFile,
    path: str,
    openers: Sequence[Opener],
    folders: Sequence[str] = DEBUG_FOLDERS,
    budget: Budget | None = None,
) -> ElfFile | None:
    """The separate debug file of an object.

    Args:
        elf: The object.
        path: Path of the object in the target's file system.
        openers: The file systems to look in, best first.
        folders: Folders of debug files.
        budget: Limit for all objects of the process.

    Returns:
        The open debug file, which the caller closes; None if no file matches.
    """
    for candidate in debug_paths(elf, path, folders):
        for opener in openers:
            debug = _open_matching(elf, candidate, opener, budget or Budget())
            if debug is not None:
                return debug
    return None


def read_debugdata(elf: ElfFile, budget: Budget | None = None) -> ElfFile | None:
    """The ELF file with symbols of its own that some distributions pack into ``.gnu_debugdata``.

    Args:
        elf: The object.
        budget: Limit for all objects of the process.

    Returns:
        The unpacked file, in memory; None if it does not exist, is damaged, or is longer than
        ``MAX_DEBUGDATA_BYTES``.
    """
    try:
        packed = elf.section_data(".gnu_debugdata", _MAX_PACKED_BYTES)
        if not packed:
            return None
        budget = budget or Budget()
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * MAX_DEBUGDATA_BYTES)
        data = unpacker.decompress(packed, min(MAX_DEBUGDATA_BYTES, budget.kept_bytes))
        budget.keep(len(data))
        return ElfFile(BytesSource(data)) if unpacker.eof else None
    except (ElfError, lzma.LZMAError):
        return None


def debug_paths(elf: ElfFile, path: str, folders: Sequence[str]) -> Iterator[str]:
    """Possible paths of the debug file of an object, best first."""
    if len(elf.build_id) > 2:
        for folder in folders:
            yield f"{folder}/.build-id/{elf.build_id[:2]}/{elf.build_id[2:]}.debug"
    if elf.debug_link is None:
        return
    name = elf.debug_link[0]
    home = str(PurePosixPath(path).parent)
    yield f"{home}/{name}"
    yield f"{home}/.debug/{name}"
    for folder in folders:
        yield f"{folder}{home}/{name}"


def _open_matching(elf: ElfFile, path: str, opener: Opener, budget: Budget) -> ElfFile | None:
    try:
        debug = ElfFile(FileSource(opener(path)))
    except (OSError, ElfError, ValueError):  # ValueError: a NUL in a path
        return None
    try:
        if debug.symtab is not None and _belongs(elf, debug, budget):
            return debug
    except ElfError:
        pass
    debug.close()
    return None


def _belongs(elf: ElfFile, debug: ElfFile, budget: Budget) -> bool:
    if elf.build_id:
        return debug.build_id == elf.build_id
    return elf.debug_link is not None and _crc32(debug, budget) == elf.debug_link[1]


def _crc32(elf: ElfFile, budget: Budget) -> int | None:
    """Checksum of the whole file; None if the file is too long."""
    size = elf.source.size
    if size > _MAX_CHECKED_BYTES:
        return None
    budget.read(size)
    crc = 0
    for place in range(0, size, _CHUNK):
        crc = zlib.crc32(elf.source.read(place, min(_CHUNK, size - place)), crc)
    return crc
