"""Finds probes that have vanished from a target, and puts them back.

A debugger that deletes its breakpoint at the same place, a program that heals its code, or one that moves its code to
other pages takes the kernel's breakpoints away without a word. With each snapshot, and at the end of each window, the
probed bytes are read from the target: a byte or a few a place, 2 us each.

Scope: probes of groups that are attached. An address where the object is no longer mapped is forgotten.
Source: ``uprobe_write_opcode`` in kernel/events/uprobes.c; ``arch_uprobe_optimize`` in arch/x86/kernel/uprobes.c for
the call that replaces a nop of five bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nativeleak import arch
from nativeleak.engines.bpf.kernel.attachment import group_of
from nativeleak.engines.bpf.kernel.groups import Group, ProbeGroups
from nativeleak.errors import NativeleakError
from nativeleak.probes.placement import PlacedProbe
from nativeleak.process import procfs
from nativeleak.process.mapped import MappedObject
from nativeleak.process.procfs import MapEntry

LOST: Final = "blind"
"""Word of the notes on vanished probes."""
_NOP5: Final = b"\x0f\x1f\x44\x00\x00"
_CALL: Final = 0xE8
_MAX_CODE_BYTES: Final = 5
_MAX_NAMES: Final = 4


@dataclass(frozen=True, slots=True)
class _Place:
    """One probed instruction at its address in a target.

    Attributes:
        original: The bytes of the file there.
    """

    address: int
    group: Group
    function: str
    original: bytes


@dataclass(slots=True)
class _Probed:
    """A probed object of one target.

    Attributes:
        seen_s: When all its probes were there last, seconds since the first window opened.
    """

    pid: int
    mapped: MappedObject
    owner: tuple[int, str]
    fd: int
    placed: Sequence[PlacedProbe]
    places: list[_Place] = field(default_factory=list)
    seen_s: float = 0.0


class VanishedProbes:
    """Looks for the probes of one trace in the memory of its targets.

    Args:
        groups: The attached probes.
        on_note: Gets (word, sentence) for the recording.

    Attributes:
        n_lost: Probes that were found gone so far.
    """

    def __init__(self, groups: ProbeGroups, on_note: Callable[[str, str], None]) -> None:
        self._groups, self._on_note = groups, on_note
        self._objects: dict[tuple[int, tuple[str, int]], _Probed] = {}
        self._memory: dict[int, int] = {}
        self.n_lost = 0

    def add(
        self, slot: int, pid: int, mapped: MappedObject, path: str, fd: int, placed: Sequence[PlacedProbe], now_s: float
    ) -> None:
        """Look at the probes of an object from now on.

        Args:
            path: Where its file was attached to; with the slot the owner of the probes.
            fd: The file, open for as long as this.
        """
        if slot not in self._memory:
            try:
                self._memory[slot] = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return
        probed = _Probed(pid, mapped, (slot, path), fd, placed, seen_s=now_s)
        probed.places = _places(probed, mapped)
        self._objects[slot, mapped.key] = probed

    def see(self, slot: int, objects: Iterable[MappedObject]) -> None:
        """Take in where the objects of a target are mapped now."""
        for mapped in objects:
            probed = self._objects.get((slot, mapped.key))
            if probed is not None and probed.mapped.ranges != mapped.ranges:
                found = _places(probed, mapped)
                here = {place.address for place in found}
                # What is no longer mapped there may have been replaced by a copy: the next look says.
                found += [place for place in probed.places if place.address not in here]
                probed.mapped, probed.places = mapped, found

    def look(self, now_s: float, slots: Iterable[int]) -> None:
        """Look at the probes of targets that run; put back what is gone.

        Args:
            now_s: Seconds since the first window opened.
        """
        running = set(slots)
        for (slot, _), probed in self._objects.items():
            if slot not in running:
                continue
            gone = self._missing(slot, probed)
            if gone:
                self._repair(slot, probed, gone, now_s)
            if any(place.group in self._groups.wanted for place in probed.places):
                probed.seen_s = now_s

    def close(self) -> None:
        """Close the targets' memory."""
        while self._memory:
            os.close(self._memory.popitem()[1])

    def _missing(self, slot: int, probed: _Probed) -> list[_Place]:
        memory, wanted = self._memory[slot], self._groups.wanted
        return [place for place in probed.places if place.group in wanted and not _is_probed(memory, place)]

    def _repair(self, slot: int, probed: _Probed, missing: list[_Place], now_s: float) -> None:
        try:
            maps = procfs.read_maps(probed.pid, executable_only=True)
        except NativeleakError:
            return  # the end of the target says more
        lost, replaced = [], []
        for place in missing:
            entry = next((each for each in maps if each.start <= place.address < each.end), None)
            if entry is not None and (entry.dev, entry.inode) == probed.mapped.key:
                lost.append(place)
            else:
                probed.places.remove(place)
                if entry is not None and self._is_copy(slot, entry, place):
                    replaced.append(place)
        self.n_lost += len(lost) + len(replaced)
        if replaced:
            why = "they cannot be put back: the code was replaced by a copy"
            self._note(probed, replaced, f"from {_seconds(probed.seen_s)} on: later calls are missing; {why}")
        if lost:
            self._put_back(slot, probed, lost, now_s)

    def _put_back(self, slot: int, probed: _Probed, lost: list[_Place], now_s: float) -> None:
        why = "the kernel does not put them there"
        try:
            self._groups.attach_anew(probed.owner)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            probed.places.clear()
        still = [place for place in lost if place not in probed.places or not _is_probed(self._memory[slot], place)]
        probed.places = [place for place in probed.places if place not in still]
        if len(still) < len(lost):
            back = [place for place in lost if place not in still]
            when = f"between {_seconds(probed.seen_s)} and {_seconds(now_s)}"
            self._note(probed, back, f"{when}: calls meanwhile are missing; they were put back")
        if still:
            when = f"from {_seconds(probed.seen_s)} on"
            self._note(probed, still, f"{when}: later calls are missing; they cannot be put back: {why}")

    def _is_copy(self, slot: int, entry: MapEntry, place: _Place) -> bool:
        """Whether other memory with the code of the file lies at a place now."""
        if entry.inode:
            return False
        return _read(self._memory[slot], place.address, len(place.original)) == place.original

    def _note(self, probed: _Probed, places: Sequence[_Place], text: str) -> None:
        names = sorted({place.function for place in places})
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        count = f"{len(places)} probe{'s' if len(places) > 1 else ''}"
        what = f"{count} of {', '.join(names[:_MAX_NAMES])}{more} in {probed.mapped.name}"
        verb = "were" if len(places) > 1 else "was"
        self._on_note(LOST, f"{what} {verb} gone from the target (PID {probed.pid}) {text}")


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _places(probed: _Probed, mapped: MappedObject) -> list[_Place]:
    found = []
    for start, end, offset in mapped.ranges:
        for probe in probed.placed:
            if offset <= probe.offset < offset + end - start:
                with contextlib.suppress(OSError):
                    original = os.pread(probed.fd, _MAX_CODE_BYTES, probe.offset)
                    address = start + probe.offset - offset
                    found.append(_Place(address, group_of(probe), probe.point.function, original))
    return found


def _is_probed(memory: int, place: _Place) -> bool:
    """Whether the kernel's breakpoint is at a place."""
    machine = arch.here()
    if machine is not arch.X86_64:
        n_bytes = len(machine.breakpoint) or len(place.original)
        return _read(memory, place.address, n_bytes) not in (b"", place.original[:n_bytes])
    first = _read(memory, place.address, 1)
    return first == machine.breakpoint or (first == bytes([_CALL]) and place.original == _NOP5)


def _read(memory: int, address: int, n_bytes: int) -> bytes:
    try:
        return os.pread(memory, n_bytes, address)
    except (OSError, OverflowError):
        return b""
