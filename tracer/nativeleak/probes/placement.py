"""Where in an allocator function its probe goes: the first place that the kernel emulates, with all as at the entry.

The straight-line beginning of the function (``prefix.py``) gives the places. A place that the function can reach a
second time (``decode.py``) is none. Where no place is left, the probe goes to the entry.

Scope: x86-64. On other machines every probe goes to the entry.
Caveat: code that jumps into the middle of an allocator function from outside of it, other than from its own cold part,
is not looked for; a probe at the entry would miss such calls altogether.
Source: System V ABI for the registers of arguments.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, NamedTuple

from nativeleak.arch import X86_64
from nativeleak.digest import blake2b
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.decode import ReadOutside, reaches_prefix
from nativeleak.probes.emulation import CONSERVATIVE, InstructionClass, classify
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.prefix import MAX_OFFSET, MAX_PUSHED_BYTES, Candidate, walk_prefix
from nativeleak.symbols.elf import PF_X, ElfError, ElfFile
from nativeleak.symbols.functions import function_symbols

_VERSION: Final = 1
_MAX_FUNCTION_BYTES: Final = 1 << 16
_UNSIZED_BYTES: Final = 4096
"""Looked at of a function whose length the symbol table does not tell."""
_MAX_OUTSIDE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the probe of a function goes.

    Attributes:
        offset: Bytes from the function's first instruction, 0 to 255.
        emulated: The kernel emulates the instruction there; if not, each hit costs a second trap.
        instruction: It, for people: ``push rbp``; empty where it was not decoded.
        sees_null: A free of NULL hits the probe too.
        pushed_bytes: How much lower than at the entry the stack pointer is: a multiple of 8 up to 2040, and 0 for all
            but functions that free.
        arguments: Registers in which arguments 1 to 3 are, as x86-64 counts them (rax 0, rcx 1, rdx 2, ...).
    """

    offset: int
    emulated: bool
    instruction: str
    sees_null: bool = True
    pushed_bytes: int = 0
    arguments: tuple[int, int, int] = X86_64.arguments


class PlacedProbe(NamedTuple):
    """A function and where its probe goes."""

    point: ProbePoint
    placement: Placement

    @property
    def offset(self) -> int:
        """Of the probed instruction in the file, bytes."""
        return self.point.offset + self.placement.offset


def choose_placement(
    code: bytes,
    kind: AllocCall,
    emulated: AbstractSet[InstructionClass] = CONSERVATIVE,
    *,
    moved_arguments: bool = False,
    read_outside: ReadOutside | None = None,
) -> Placement:
    """Where the probe of one function goes.

    Args:
        code: The whole function, as far as it is known.
        kind: What is read at the probe, and whether the return is probed from there too: then the return address must
            be on top of the stack.
        emulated: What this kernel emulates; see ``emulation.measure_emulated``.
        moved_arguments: The program can read an argument from another register than the one it was passed in.
        read_outside: Gives code by its distance from the function's first instruction, to look at its cold part.
    """
    entry = _at_entry(code, emulated)
    if entry.emulated and not kind.spec.frees:
        return entry
    walk = walk_prefix(code, kind.spec, emulated, moved_arguments=moved_arguments)
    for candidate in _by_preference(walk.candidates):
        if candidate.offset == 0 or not reaches_prefix(code, candidate.offset, read_outside):
            return Placement(
                candidate.offset,
                emulated=True,
                instruction=candidate.instruction,
                sees_null=candidate.sees_null,
                pushed_bytes=candidate.pushed_bytes,
                arguments=candidate.arguments,
            )
    return Placement(0, emulated=entry.emulated, instruction=entry.instruction or walk.entry)


def _at_entry(code: bytes, emulated: AbstractSet[InstructionClass]) -> Placement:
    first = classify(code)
    return Placement(0, emulated=first in emulated, instruction=first.describe(code) if first is not None else "")


def _by_preference(candidates: Sequence[Candidate]) -> list[Candidate]:
    """First the first place behind the test for NULL, which a free of NULL does not hit; then the first of all."""
    behind = [candidate for candidate in candidates if not candidate.sees_null]
    return [*behind[:1], *candidates[:1]]


def place(
    path: str,
    points: Sequence[ProbePoint],
    emulated: AbstractSet[InstructionClass] = CONSERVATIVE,
    *,
    moved_arguments: bool = False,
    cache: PlacementCache | None = None,
) -> list[PlacedProbe]:
    """Where the probes of an object's functions go; in the order of ``points``.

    Args:
        path: The object's file.
        points: Its functions, from ``families.choose_points``.
        emulated: What this kernel emulates.
        moved_arguments: See ``choose_placement``.
        cache: Asked first, and told; without one everything is worked out anew.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no ELF file that can be read, or a function lies outside of it.
    """
    with ElfFile.open(path) as elf:
        if elf.machine != X86_64.elf_machine:
            return [PlacedProbe(point, Placement(0, emulated=True, instruction="")) for point in points]
        codes = _read_functions(elf, points)
        key = _cache_key(elf.build_id, points, codes, emulated, moved_arguments=moved_arguments)
        cached = cache.find(key) if cache is not None and key else None
        placements = _from_rows(cached, codes) if cached is not None else None
        if placements is None:
            try:
                placements = [
                    choose_placement(
                        code,
                        point.kind,
                        emulated,
                        moved_arguments=moved_arguments,
                        read_outside=_outside_reader(elf, point.offset),
                    )
                    for point, code in zip(points, codes, strict=True)
                ]
            except ImportError:
                # capstone brings a library of its own, which may not load here: costly probes, but right ones.
                placements, key = [_at_entry(code, emulated) for code in codes], ""
            if cache is not None and key:
                cache.store(key, [_to_row(placement) for placement in placements])
    return [PlacedProbe(point, placement) for point, placement in zip(points, placements, strict=True)]


def _read_functions(elf: ElfFile, points: Sequence[ProbePoint]) -> list[bytes]:
    symbols = function_symbols(elf, [point.function for point in points])
    starts = sorted(point.offset for point in points)
    codes = []
    for point in points:
        symbol = symbols.get(point.function)
        is_same = symbol is not None and elf.vaddr_to_offset(symbol.vaddr) == point.offset
        n_bytes = symbol.size if symbol is not None and is_same and symbol.size else _UNSIZED_BYTES
        following = bisect_right(starts, point.offset)
        if following < len(starts):
            n_bytes = min(n_bytes, starts[following] - point.offset)
        n_bytes = min(n_bytes, _MAX_FUNCTION_BYTES, elf.source.size - point.offset)
        codes.append(elf.source.read(point.offset, n_bytes))
    return codes


def _outside_reader(elf: ElfFile, function_offset: int) -> ReadOutside:
    """Reads around a function, within the segment that it lies in."""
    segment = next(
        (each for each in elf.loads if each.flags & PF_X and 0 <= function_offset - each.offset < each.file_bytes), None
    )

    def read_outside(distance: int, n_bytes: int) -> bytes:
        start = function_offset + distance
        if segment is None or not segment.offset <= start < segment.offset + segment.file_bytes:
            return b""
        try:
            return elf.source.read(start, min(n_bytes, segment.offset + segment.file_bytes - start, _MAX_OUTSIDE_BYTES))
        except ElfError:
            return b""

    return read_outside


def _cache_key(
    build_id: str,
    points: Sequence[ProbePoint],
    codes: Sequence[bytes],
    emulated: AbstractSet[InstructionClass],
    *,
    moved_arguments: bool,
) -> str:
    """Empty without a build id. The code is a part of the key: a file that was patched may have kept its build id."""
    if not build_id:
        return ""
    digest = blake2b(digest_size=16)
    digest.update(repr((_VERSION, sorted(emulated), moved_arguments, [tuple(point) for point in points])).encode())
    for code in codes:
        digest.update(len(code).to_bytes(8, "little") + code)
    return f"{build_id}-{digest.hexdigest()}"


def _to_row(placement: Placement) -> list[object]:
    return [
        placement.offset,
        placement.emulated,
        placement.instruction,
        placement.sees_null,
        placement.pushed_bytes,
        list(placement.arguments),
    ]


def _from_rows(rows: Sequence[object], codes: Sequence[bytes]) -> list[Placement] | None:
    """None where the rows are not what ``_to_row`` makes of placements in these functions."""
    placements = []
    if len(rows) != len(codes):
        return None
    for row, code in zip(rows, codes, strict=True):
        match row:
            case [int(offset), bool(emulated), str(text), bool(sees_null), int(pushed), [int(a), int(b), int(c)]] if (
                (offset == 0 or 0 < offset < min(1 + MAX_OFFSET, len(code)))
                and 0 <= pushed <= MAX_PUSHED_BYTES
                and all(0 <= register < 16 for register in (a, b, c))
            ):
                placements.append(Placement(offset, emulated, text, sees_null, pushed, (a, b, c)))
            case _:
                return None
    return placements
