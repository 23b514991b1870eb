"""The allocators in one object: functions to probe, and what looks like an allocator but cannot be probed.

Scope: by names. An object without such names that has an allocator's own messages in it holds an allocator whose names
were stripped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.model import Unwatched
from nativeleak.probes.families import (
    PARTS,
    PLAIN_NAMES,
    STANDARD,
    Affix,
    ProbePoint,
    affixes_of,
    choose_affixed,
    choose_points,
    is_allocator,
    looks_like_one,
)
from nativeleak.probes.image import Image
from nativeleak.probes.known import EVIDENCE, is_known_family, is_known_plain
from nativeleak.probes.passing import Calls, find_calls
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.functions import FunctionSymbol, function_names, function_symbols
from nativeleak.symbols.source import ElfError

_MESSAGES: Final = {
    b"<jemalloc>: ": "jemalloc",
    b"mimalloc: warning: ": "mimalloc",
    b"src/tcmalloc.cc": "tcmalloc",
    b"TCMALLOC_": "tcmalloc",
    b"TBBmalloc: ": "TBB's scalable allocator",
}
"""Text that is in every build of an allocator -> the allocator."""
_MARKS: Final = {
    "mallocx": "jemalloc",
    "sdallocx": "jemalloc",
    "heap_malloc": "mimalloc",
    "malloc_aligned": "mimalloc",
    "malloc_skip_new_handler": "tcmalloc",
    "new_nothrow": "tcmalloc",
}
"""Function of a family -> the allocator."""
_CHUNK: Final = 1 << 20
_MAX_DATA_BYTES: Final = 64 << 20
_MAX_AFFIXES: Final = 64
_DEPTH: Final = 3
_GO_SECTION: Final = ".gopclntab"
GO: Final = "Go"
"""The allocator of a Go program, in ``Unwatched``."""
_GO: Final = "memory of Go's collector is not counted, only what C code and mmap take: go tool pprof shows it"
_STRIPPED: Final = (
    "its text is in the file but its functions have no names: put the debug file of this build beside it or under"
    " /usr/lib/debug, or use a build that is not stripped"
)
_UNKNOWN: Final = (
    "its functions call no known allocator: if they take and free memory as malloc and free do, trace with"
    " --allocator {affix}"
)

FindDebug = Callable[[ElfFile], ElfFile | None]
"""Gives the debug file of an object, which the caller closes."""


@dataclass(frozen=True, slots=True)
class Allocators:
    """What one object has.

    Attributes:
        points: Functions to probe, once for each address.
        affixes: Families among them that have an affix.
        unwatched: Allocators that are not probed.
    """

    points: tuple[ProbePoint, ...] = ()
    affixes: tuple[Affix, ...] = ()
    unwatched: tuple[Unwatched, ...] = ()


def find_allocators(
    path: str, name: str = "", asked: Sequence[Affix] = (), find_debug: FindDebug = lambda _elf: None
) -> Allocators:
    """The allocators in one object.

    Args:
        path: A path under which it can be opened.
        name: Its own name, for the report.
        asked: Families to probe although no rule says that they are allocators.
        find_debug: Asked where the object has an allocator's text and no names.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no readable ELF file.
    """
    with ElfFile.open(path) as elf:
        found = _by_names(elf, elf, name, asked)
        if found.points:
            return found
        allocator = _by_messages(elf)
        if not allocator:
            go = (Unwatched(name, GO, "", _GO),) if elf.section(_GO_SECTION) is not None else ()
            return Allocators(unwatched=(*found.unwatched, *go))
        debug = find_debug(elf)
        if debug is not None:
            with debug:
                named = _by_names(elf, debug, name, asked)
            if named.points:
                return named
        return Allocators(unwatched=(Unwatched(name, allocator, "", _STRIPPED),))


def _by_names(elf: ElfFile, names: ElfFile, name: str, asked: Sequence[Affix]) -> Allocators:
    """By the symbol tables of ``names``: the object itself or its debug file."""
    defined = function_names(names, PARTS)
    candidates = list(dict.fromkeys(affix for each in sorted(defined) for affix in affixes_of(each)))[:_MAX_AFFIXES]
    image = Image(elf)
    affixes, doubtful = [], []
    for affix in sorted(candidates, key=lambda each: (len(each.suffix), each)):
        if affix not in asked and is_allocator(affix, defined):
            calls = _calls(image, names, affix, depth=1)
            if not calls.reaches:
                affixes.append(affix)
        elif affix not in asked and looks_like_one(affix, defined):
            calls = _calls(image, names, affix, depth=_DEPTH)
            if not (calls.reaches or calls.is_open):
                doubtful.append(affix)
    unwatched = tuple(Unwatched(name, "", str(affix), _UNKNOWN.format(affix=_shown(affix))) for affix in doubtful)
    if "malloc" not in defined and not affixes and not asked:
        return Allocators(unwatched=unwatched)  # the search for its other names takes long in a large object
    wanted = {*PLAIN_NAMES, *EVIDENCE, *(each for affix in (*asked, *affixes) for each in affix.names())}
    symbols = {each: symbol for each, symbol in function_symbols(names, wanted).items() if not symbol.is_ifunc}
    offsets = {each: elf.vaddr_to_offset(symbol.vaddr) for each, symbol in symbols.items()}
    known = {each: offset for each, offset in offsets.items() if offset is not None}
    plain = choose_points(known, makes_own_new=_makes_own_new(image, symbols), is_known=is_known_plain(known))
    points = {point.offset: point for point in plain}
    used = []
    for affix in (*asked, *affixes):
        family = choose_affixed(affix, known, is_known=is_known_family(affix, defined))
        new = [point for point in family if point.offset not in points]
        if new:
            used.append(affix)
            points |= {point.offset: point for point in new}
    return Allocators(tuple(points.values()), tuple(used), unwatched)


def _shown(affix: Affix) -> str:
    return f"'{affix}'" if affix.suffix else str(affix)


def _calls(image: Image, names: ElfFile, affix: Affix, depth: int) -> Calls:
    """What the function of a family that makes blocks calls."""
    symbols = function_symbols(names, [affix.name("malloc"), affix.name("mallocx"), affix.name("malloc_aligned")])
    found = [find_calls(image, each.vaddr, each.size, STANDARD, depth) for each in symbols.values()]
    return Calls(any(each.reaches for each in found), any(each.is_open for each in found))


def _makes_own_new(image: Image, symbols: dict[str, FunctionSymbol]) -> bool:
    """Whether operator new stands beside malloc and does not call it."""
    new = symbols.get("_Znwm")
    if new is None or "malloc" not in symbols:
        return False
    return not find_calls(image, new.vaddr, new.size, STANDARD).reaches


def allocator_name(affix: Affix, functions: Iterable[str]) -> str:
    """The allocator of a family, by its functions; empty where they do not tell."""
    has = frozenset(functions)
    return next((allocator for stem, allocator in _MARKS.items() if affix.name(stem) in has), "")


def _by_messages(elf: ElfFile) -> str:
    """The allocator whose text an object has; empty without any."""
    tail, longest = b"", max(map(len, _MESSAGES))
    for chunk in _data(elf):
        text = tail + chunk
        for message, allocator in _MESSAGES.items():
            if message in text:
                return allocator
        tail = text[-longest:]
    return ""


def _data(elf: ElfFile) -> Iterator[bytes]:
    """An object's constants, in pieces."""
    section = elf.section(".rodata")
    start, end = (section.offset, section.offset + section.n_bytes) if section is not None else (0, elf.source.size)
    end = min(end, start + _MAX_DATA_BYTES, elf.source.size)
    for at in range(start, end, _CHUNK):
        try:
            yield elf.source.read(at, min(_CHUNK, end - at))
        except ElfError:
            return
