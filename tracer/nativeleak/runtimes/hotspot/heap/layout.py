"""How one JVM writes headers and references in its heap.

Scope: numbers. Collectors that move objects while the program runs, or colour references, are refused.

Source: oop.hpp, arrayOop.hpp, markWord.hpp (markOop.hpp before JDK 14), compressedOops.hpp, compressedKlass.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from nativeleak.runtimes.hotspot.flags import read_flags
from nativeleak.runtimes.hotspot.heap.pages import Addresses
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

_COLLECTORS: Final = (
    "UseSerialGC", "UseParallelGC", "UseG1GC", "UseZGC", "UseShenandoahGC", "UseConcMarkSweepGC", "UseEpsilonGC",
)  # fmt: skip
_SWITCHES: Final = ("UseCompressedOops", "UseCompressedClassPointers", "UseCompactObjectHeaders", "UseBiasedLocking")
READ: Final = ("G1", "Serial", "Parallel")
"""Collectors whose heaps are read."""
_OOP_BASE: Final = ("CompressedOops::_base", "CompressedOops::_narrow_oop._base", "Universe::_narrow_oop._base")
_OOP_SHIFT: Final = ("CompressedOops::_shift", "CompressedOops::_narrow_oop._shift", "Universe::_narrow_oop._shift")
_KLASS_BASE: Final = (
    "CompressedKlassPointers::_base", "CompressedKlassPointers::_narrow_klass._base", "Universe::_narrow_klass._base",
)  # fmt: skip
_KLASS_SHIFT: Final = (
    "CompressedKlassPointers::_shift", "CompressedKlassPointers::_narrow_klass._shift",
    "Universe::_narrow_klass._shift",
)  # fmt: skip


class Header(Enum):
    """Where an object's class is and how it is written."""

    NARROW = "narrow"
    """A mark of 8 bytes, a class of 4."""
    WIDE = "wide"
    """A mark of 8 bytes, a class of 8."""
    COMPACT = "compact"
    """The class in the upper bits of the mark."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How objects are written.

    Attributes:
        collector: ``G1``, ``Serial``, ``Parallel``.
        header: Of objects.
        is_narrow: References in the heap are compressed, 4 bytes each.
        oop_base: Added to a compressed reference.
        oop_shift: How far it is shifted first.
        klass_base: The same for compressed classes.
        klass_shift: The same for compressed classes.
        mark_klass_shift: Where in a mark the class begins, with compact headers.
        hash_top: Bits of an unlocked mark from here on are 0; with compact headers the class is there.
        is_biased: Locks may be biased towards a thread (JDK 11 and 17).
        length_offset: Of an array's length.
        align: Of objects, bytes.
    """

    collector: str
    header: Header
    is_narrow: bool
    oop_base: int
    oop_shift: int
    klass_base: int
    klass_shift: int
    mark_klass_shift: int
    hash_top: int
    is_biased: bool
    length_offset: int
    align: int = 8

    @property
    def reference_bytes(self) -> int:
        """Size of a reference in the heap."""
        return 4 if self.is_narrow else 8

    def keys(self, addresses: Addresses) -> Addresses:
        """References to objects as the heap holds them."""
        if not self.is_narrow:
            return addresses
        return (addresses - np.uint64(self.oop_base)) >> np.uint64(self.oop_shift)

    def addresses(self, keys: Addresses) -> Addresses:
        """Objects of references; a null reference gives a meaningless address."""
        if not self.is_narrow:
            return keys
        return np.uint64(self.oop_base) + (keys.astype(np.uint64) << np.uint64(self.oop_shift))


def read_collector(vm: HotSpot) -> str:
    """Name of the collector, as in the flag ``Use...GC``; empty if unknown.

    Raises:
        UnreadableError: The JVM does not describe its flags.
    """
    flags = read_flags(vm, _COLLECTORS)
    return next((name for name in _COLLECTORS if flags.get(name)), "").removeprefix("Use").removesuffix("GC")


def read_layout(vm: HotSpot) -> Layout:
    """How a JVM writes its heap.

    Raises:
        UnreadableError: Its collector is none that is read here, or it does not describe itself.
    """
    collector = read_collector(vm)
    if collector not in READ:
        raise UnreadableError(
            f"the heap of the collector {collector or '(unknown)'} is not read: only {', '.join(READ)}"
        )
    flags = read_flags(vm, _SWITCHES)
    header = Header.WIDE
    if flags.get("UseCompactObjectHeaders"):
        header = Header.COMPACT
    elif flags.get("UseCompressedClassPointers"):
        header = Header.NARROW
    is_narrow = bool(flags.get("UseCompressedOops"))
    oop_base, oop_shift = _base_and_shift(vm, _OOP_BASE, _OOP_SHIFT) if is_narrow else (0, 0)
    klass_base, klass_shift = _base_and_shift(vm, _KLASS_BASE, _KLASS_SHIFT) if header is not Header.WIDE else (0, 0)
    return Layout(
        collector, header, is_narrow, oop_base, oop_shift, klass_base, klass_shift,
        _constant(vm, "klass_shift", 42),
        _constant(vm, "hash_shift", 8) + _constant(vm, "hash_bits", 31),
        bool(flags.get("UseBiasedLocking")),
        {Header.NARROW: 12, Header.WIDE: 16, Header.COMPACT: 8}[header],
    )  # fmt: skip


def _constant(vm: HotSpot, name: str, default: int) -> int:
    value = vm.structs.constant(f"markWord::{name}")
    if value is None:
        value = vm.structs.constant(f"markOopDesc::{name}")
    return default if value is None or not 0 <= value < 64 else value


def _base_and_shift(vm: HotSpot, bases: tuple[str, ...], shifts: tuple[str, ...]) -> tuple[int, int]:
    base, shift = vm.structs.static(*bases), vm.structs.static(*shifts)
    if base is None or shift is None:
        raise UnreadableError(f"the JVM does not say how it compresses references ({bases[0]})")
    n_bits = vm.memory.i32(shift)
    if not 0 <= n_bits < 16:
        raise UnreadableError("the JVM does not say how it compresses references: impossible shift")
    return vm.memory.u64(base), n_bits
