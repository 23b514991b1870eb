"""How the end of each allocator function is seen: by a return probe, or at its exits.

A return probe puts the kernel's trampoline in the place of the return address. An exception that comes by it ends the
process, so that C++'s ``operator new``, in all its forms, is seen at its exits (``exits.py``) or not at all. That of
libstdc++ only calls malloc and needs no probe; neither does another one of which every block comes from a probed
function.

A stack that is left inside of the call ends the process too. Well-known allocators do not leave it (``known.py``); any
other one is seen at its exits where these are proved, else by return probes.

Scope: x86-64. On other machines no exits are known, and ``operator new`` of an allocator is not seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from nativeleak.arch import X86_64
from nativeleak.digest import blake2b
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.emulation import InstructionClass
from nativeleak.probes.exits import MAX_DEPTH_BYTES, UNSEEN, Exit, Exits, find_exits
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.placement import PlacedProbe
from nativeleak.symbols.elf import ElfFile

_VERSION: Final = 1
HARM: Final = (
    "a program that leaves its stack inside of them may end, and what a signal handler allocates inside of them "
    "is in no total"
)
"""What return probes may do, for people."""


class Returns(StrEnum):
    """How the ends of calls are seen (``--returns``)."""

    AUTO = "auto"
    EXITS = "exits"
    PROBES = "probes"


class ExitPlace(NamedTuple):
    """An exit, by its place in the file.

    Attributes:
        offset: Of the instruction, bytes.
        exit: What is known there.
    """

    offset: int
    exit: Exit


class SeenAtExits(NamedTuple):
    """A function that is probed at its exits.

    Attributes:
        probe: Where its entry is.
        exits: Its exits; one that several functions share comes with each.
        is_open: It is a C++ operator that calls no probed function itself: calls inside of it are the program's, for
            an exception or in a new_handler.
    """

    probe: PlacedProbe
    exits: tuple[ExitPlace, ...]
    is_open: bool


class Unseen(NamedTuple):
    """A function that is not seen at its exits.

    Attributes:
        function: Its name.
        reason: Why not.
    """

    function: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is probed of an object.

    Attributes:
        placed: Functions that free, and those whose return is probed.
        at_exits: Functions that are seen at their exits.
        unseen: Functions that are not probed.
        unproved: Functions among ``placed`` whose exits were wanted and are not proved.
    """

    placed: tuple[PlacedProbe, ...] = ()
    at_exits: tuple[SeenAtExits, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    unproved: tuple[Unseen, ...] = ()

    @property
    def functions(self) -> list[PlacedProbe]:
        """All functions that are probed."""
        return [*self.placed, *(each.probe for each in self.at_exits)]

    def only(self, names: Collection[str]) -> Plan:
        """The same for functions of these names alone."""
        placed = tuple(each for each in self.placed if each.point.function in names)
        at_exits = tuple(each for each in self.at_exits if each.probe.point.function in names)
        unseen, unproved = (
            tuple(each for each in found if each.function in names) for found in (self.unseen, self.unproved)
        )
        return Plan(placed, at_exits, unseen, unproved)


def plan_returns(
    path: str,
    placed: Sequence[PlacedProbe],
    returns: Returns,
    emulated: AbstractSet[InstructionClass],
    cache: PlacementCache | None = None,
) -> Plan:
    """Choose for each function of an object how its end is seen.

    Args:
        path: The object's file.
        placed: Its functions, from ``placement.place``.
        returns: What is asked for. ``auto`` takes exits of all but well-known allocators, where they are proved.
            Return probes are never put on ``operator new``.
        emulated: What this kernel emulates.
        cache: Asked first, and told.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no ELF file that can be read.
    """
    by_probe = [each for each in placed if not _ends_at_exits(each.point, returns)]
    wanted = [each for each in placed if _ends_at_exits(each.point, returns)]
    if not wanted:
        return Plan(tuple(placed))
    probed = [each.point for each in placed if not each.point.spec.frees]
    found = _Found(path, [each.point for each in wanted], probed, emulated, cache)
    unproved = []
    if returns is Returns.AUTO:
        for each in [each for each in wanted if not each.point.is_operator]:
            if why := found.own_reason(each.point.offset):
                unproved.append(Unseen(each.point.function, why))
                by_probe.append(each)
                wanted.remove(each)
                found.leave_out(each.point.offset)
    at_exits, unseen = [], []
    for each in wanted:
        reason = found.reason(each.point.offset)
        if reason:
            unseen.append(Unseen(each.point.function, reason))
        elif not (each.point.is_operator and found.is_passed_on(each.point.offset)):
            is_open = each.point.is_operator and not found.calls_probed(each.point.offset)
            at_exits.append(SeenAtExits(each, tuple(found.places(each.point.offset)), is_open))
    return Plan(tuple(by_probe), tuple(at_exits), tuple(unseen), tuple(unproved))


def describe_unproved(unproved: Sequence[Unseen], name: str) -> str:
    """Functions of an allocator that is not well-known and gets return probes, with the reasons.

    Args:
        unproved: They; not empty.
        name: Of their object.
    """
    functions = ", ".join(each.function for each in unproved)
    reasons = "; ".join(dict.fromkeys(each.reason for each in unproved))
    return f"return probes on {functions} of {name}, whose exits are not proved ({reasons})"


def _ends_at_exits(point: ProbePoint, returns: Returns) -> bool:
    if point.spec.frees:
        return False
    is_doubtful = returns is Returns.AUTO and not point.is_known
    return point.is_operator or is_doubtful or returns is Returns.EXITS


class _Found:
    """The exits of some functions of an object, by their offsets in the file.

    Args:
        path: The object's file.
        points: The functions.
        probed: All of its allocating functions that are probed.
        emulated: What this kernel emulates.
        cache: Asked first, and told.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no ELF file that can be read.
    """

    def __init__(
        self,
        path: str,
        points: Sequence[ProbePoint],
        probed: Sequence[ProbePoint],
        emulated: AbstractSet[InstructionClass],
        cache: PlacementCache | None,
    ) -> None:
        self._names = {point.offset: point.function for point in probed}
        with ElfFile.open(path) as elf:
            self._exits = dict(
                zip([p.offset for p in points], _find(path, elf, points, probed, emulated, cache), strict=True)
            )
            vaddrs = {place.vaddr for exits in self._exits.values() for place in exits.places}
            vaddrs |= {vaddr for exits in self._exits.values() for vaddr in exits.goes_on_in}
            self._offsets = {vaddr: elf.vaddr_to_offset(vaddr) or 0 for vaddr in vaddrs}

    def _ends(self, offset: int) -> set[int]:
        """Functions that a function may end in: itself, and those that it goes on in."""
        ends, work = set(), [offset]
        while work:
            each = work.pop()
            if each not in ends:
                ends.add(each)
                further = [self._offsets[vaddr] for vaddr in self._exits[each].goes_on_in]
                work += [end for end in further if end in self._exits]
        return ends

    def own_reason(self, offset: int) -> str:
        """Why a function's own exits cannot be seen, wherever else it may end; empty where they can."""
        return self._exits[offset].reason

    def leave_out(self, offset: int) -> None:
        """A function's return is probed: what goes on in it is seen there."""
        del self._exits[offset]

    def reason(self, offset: int) -> str:
        """Why a function cannot be seen at its exits; empty where it can."""
        for each in sorted(self._ends(offset), key=lambda end: end != offset):
            if why := self._exits[each].reason:
                return why if each == offset else f"it ends in {self._names[each]}: {why}"
        return ""

    def is_passed_on(self, offset: int) -> bool:
        """Whether each block of a function is seen by another function's probes, and by none of its own name."""
        exits = self._exits[offset]
        ends = [self._offsets[vaddr] for vaddr in exits.goes_on_in]
        return exits.is_wrapper and all(end not in self._exits or self.is_passed_on(end) for end in ends)

    def calls_probed(self, offset: int) -> bool:
        """Whether a function, or one that it goes on in, calls a probed one."""
        return any(self._exits[each].calls_probed for each in self._ends(offset))

    def places(self, offset: int) -> set[ExitPlace]:
        """Where a function is left, those included that it goes on in."""
        found = {place for each in self._ends(offset) for place in self._exits[each].places}
        return {ExitPlace(self._offsets[place.vaddr], place) for place in found}


def _find(
    path: str,
    elf: ElfFile,
    points: Sequence[ProbePoint],
    probed: Sequence[ProbePoint],
    emulated: AbstractSet[InstructionClass],
    cache: PlacementCache | None,
) -> list[Exits]:
    """The exits of functions, in their order."""
    if elf.machine != X86_64.elf_machine:
        return [Exits(reason="exits are found in code for x86-64 only")] * len(points)
    key = _cache_key(path, elf.build_id, points, probed, emulated)
    rows = cache.find(key) if cache is not None and key else None
    found = [_from_row(row) for row in rows] if rows is not None else []
    known = [exits for exits in found if exits is not None]
    if len(known) == len(points):
        return known
    from nativeleak.probes.image import Image

    try:
        from nativeleak.probes.flow import FlowReader

        reader = FlowReader(Image(elf))
    except ImportError:
        return [Exits(reason="the disassembler cannot be loaded")] * len(points)
    vaddrs = {point.offset: elf.offset_to_vaddr(point.offset) or 0 for point in probed}
    known = [find_exits(reader, vaddrs[p.offset], p.kind, emulated, set(vaddrs.values())) for p in points]
    if cache is not None and key:
        cache.store(key, [_to_row(exits) for exits in known])
    return known


def _cache_key(
    path: str,
    build_id: str,
    points: Sequence[ProbePoint],
    probed: Sequence[ProbePoint],
    emulated: AbstractSet[InstructionClass],
) -> str:
    """Empty without a build id. Size and time are a part of the key: a file that was patched keeps its build id."""
    if not build_id:
        return ""
    facts = Path(path).stat()
    digest = blake2b(digest_size=16)
    offsets = [point.offset for point in points], [tuple(point) for point in probed]
    digest.update(repr((_VERSION, facts.st_size, facts.st_mtime_ns, sorted(emulated), offsets)).encode())
    return f"{build_id}-exits-{digest.hexdigest()}"


def _to_row(exits: Exits) -> list[object]:
    places = [list(astuple(each)) for each in exits.places]
    return [exits.reason, exits.is_wrapper, exits.calls_probed, list(exits.goes_on_in), places]


def _from_row(row: object) -> Exits | None:
    """None where the row is not what ``_to_row`` makes."""
    match row:
        case [str(reason), bool(is_wrapper), bool(calls), [*goes_on], [*rows]] if all(
            isinstance(each, int) for each in goes_on
        ):
            places = [_exit_of(each) for each in rows]
            if None not in places:
                known = tuple(place for place in places if place is not None)
                return Exits(known, tuple(int(str(each)) for each in goes_on), is_wrapper, calls, reason)
    return None


def _exit_of(row: object) -> Exit | None:
    match row:
        case [
            int(vaddr),
            int(register),
            int(depth),
            None | int() as condition,
            bool(emulated),
            bool(hot),
            str(text),
        ] if (
            0 <= register <= UNSEEN
            and 0 <= depth <= MAX_DEPTH_BYTES
            and depth % 8 == 0
            and (condition is None or 0 <= condition < 16)
        ):
            return Exit(vaddr, register, depth, condition, emulated, hot, text)
    return None
