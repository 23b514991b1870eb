"""The heap of a Go program: the arenas of its runtime.

Scope: which addresses are arenas. How much of them lives is not told. The runtime puts stacks of its own threads into
its arenas, so that a stack pointer in one does not make it a stack.

Source: ``mallocinit`` in runtime/malloc.go: on 64-bit machines arenas begin at 0xc000000000 and grow from there;
tested with Go 1.19.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nativeleak.ledger.mapping_events import MapsEntry
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.source import ElfError

_FIRST: Final = 0xC0_0000_0000
_LAST: Final = 0x1C0_0000_0000
_SECTION: Final = ".gopclntab"
_LIBC: Final = ("/libc.so", "/libc-", "/ld-musl-", "/libc.musl-")


def find_arenas(pid: int, maps: Iterable[MapsEntry]) -> list[tuple[int, int]]:
    """(start, end) of each mapping of the arenas, in address order; empty where the program is not Go's.

    Args:
        pid: The process.
        maps: Its mappings.
    """
    found = [
        (entry.start, entry.end)
        for entry in maps
        if _FIRST <= entry.start < _LAST and entry.perms.startswith("rw") and _is_anonymous(entry.path)
    ]
    if not found:
        return []
    try:
        with ElfFile.open(f"/proc/{pid}/exe") as elf:
            return found if elf.section(_SECTION) is not None else []
    except (OSError, ElfError):
        return []


def _is_anonymous(path: str | None) -> bool:
    """Newer kernels let a program name its memory: ``[anon: Go: heap]``."""
    return not path or path.startswith("[anon")


def has_libc(maps: Iterable[MapsEntry]) -> bool:
    """Whether a C library is mapped: without one all memory is the runtime's."""
    return any(name in (entry.path or "") for entry in maps for name in _LIBC)
