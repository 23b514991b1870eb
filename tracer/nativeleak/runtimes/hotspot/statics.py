"""Counters that Java keeps in static fields: direct buffers, mapped buffers, Netty's own memory.

Scope: exact where a field is found; a class that is not loaded, or an object that does not prove to be of the class
that the field has, gives no value. Objects move while they are read, so each is checked by its class before it is
believed.

Source: java.nio.Bits (RESERVED_MEMORY, TOTAL_CAPACITY, COUNT: AtomicLong), sun.nio.ch.FileChannelImpl and its class
Unmapper (count, totalSize: up to JDK 13 of Unmapper, then of DefaultUnmapper and SyncUnmapper),
io.netty.util.internal.PlatformDependent (DIRECT_MEMORY_COUNTER); classLoaderData.hpp, klass.hpp, instanceKlass.hpp,
fieldInfo.hpp for the way to a field: up to JDK 20 an array of six 16-bit numbers a field, since JDK 21 a packed stream.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nativeleak.runtimes.hotspot.cleaners import CLASSES, DEFLATER, INFLATER, count_cleaners
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.methods import MethodReader
from nativeleak.runtimes.hotspot.oops import StringReader
from nativeleak.runtimes.hotspot.streams import read_unsigned5
from nativeleak.units import format_bytes

_BITS: Final = "java/nio/Bits"
_ATOMIC: Final = "java/util/concurrent/atomic/AtomicLong"
_NETTY: Final = "io/netty/util/internal/PlatformDependent"
_UNMAPPERS: Final = tuple(f"sun/nio/ch/FileChannelImpl${name}Unmapper" for name in ("", "Default", "Sync"))
_MIRROR: Final = "java/lang/Class"
_MAX_LOADERS: Final = 1 << 16
_MAX_CLASSES: Final = 1 << 18
_MAX_FIELDS: Final = 1 << 12
_SLOTS: Final = 6
_STREAM_CODE: Final = 1  # of UNSIGNED5 since JDK 20, and the stream came with 21
_FLAGS_WITH_NUMBER: Final = (0, 2, 4)


@dataclass(frozen=True, slots=True)
class NativeCounts:
    """What Java itself counts of memory outside of its heap; None where it is not known.

    Attributes:
        direct_count: Direct buffers of ByteBuffer.allocateDirect that were not freed.
        direct_bytes: Reserved for them, which -XX:MaxDirectMemorySize limits.
        mapped_count: Mapped buffers (FileChannel.map).
        mapped_bytes: Address space of these.
        netty_bytes: Direct memory that Netty takes past the JVM's own count.
        deflater_count: Deflaters that were not ended, nor found dead by the collector.
        inflater_count: Inflaters likewise; the JDK keeps some for its own archives.
        cleaners: Other entries of the JDK's common cleaner, by the class of what it would run; the most frequent first.
        cleaners_whole: Whether the cleaner's list was read to its end; else the three before count a part of it.
    """

    direct_count: int | None = None
    direct_bytes: int | None = None
    mapped_count: int | None = None
    mapped_bytes: int | None = None
    netty_bytes: int | None = None
    deflater_count: int | None = None
    inflater_count: int | None = None
    cleaners: tuple[tuple[str, int], ...] = ()
    cleaners_whole: bool = True

    def said(self) -> str:
        """For people; empty where nothing is known or held."""
        parts = []
        if self.direct_count and self.direct_bytes is not None:
            parts.append(f"{self.direct_count:,} direct buffers, {format_bytes(self.direct_bytes)}")
        if self.mapped_count and self.mapped_bytes is not None:
            parts.append(f"{self.mapped_count:,} mapped buffers, {format_bytes(self.mapped_bytes)}")
        if self.netty_bytes:
            parts.append(f"Netty's own direct memory, {format_bytes(self.netty_bytes)}")
        at_least = "" if self.cleaners_whole else "at least "
        for count, name in ((self.deflater_count, "Deflater"), (self.inflater_count, "Inflater")):
            if count:
                parts.append(f"{at_least}{count:,} {name}{'s' if count > 1 else ''} not ended")
        return "; ".join(parts)


def read_native_counts(vm: HotSpot) -> NativeCounts:
    """Read them all.

    Raises:
        UnreadableError: The JVM does not describe its classes.
    """
    reader = _StaticReader(vm)
    classes = reader.find({_BITS, _ATOMIC, _NETTY, *_UNMAPPERS, *CLASSES})
    atomic = classes.get(_ATOMIC)
    value = reader.offset(atomic, "value") if atomic else None
    bits, netty = classes.get(_BITS), classes.get(_NETTY)
    unmappers = [classes[name] for name in _UNMAPPERS if name in classes]
    waiting = count_cleaners(vm.memory, reader, reader.objects, classes, vm.refresh)
    return NativeCounts(
        deflater_count=waiting.count(DEFLATER) if waiting else None,
        inflater_count=waiting.count(INFLATER) if waiting else None,
        cleaners=tuple(each for each in waiting.by_class if each[0] not in (DEFLATER, INFLATER)) if waiting else (),
        cleaners_whole=waiting is None or waiting.is_whole,
        direct_count=reader.atomic(bits, "COUNT", value),
        direct_bytes=reader.atomic(bits, "RESERVED_MEMORY", value),
        mapped_count=reader.sum_of(unmappers, "count", 4),
        mapped_bytes=reader.sum_of(unmappers, "totalSize", 8),
        netty_bytes=reader.atomic(netty, "DIRECT_MEMORY_COUNTER", value),
    )


class _StaticReader:
    def __init__(self, vm: HotSpot) -> None:
        self._memory = vm.memory
        methods = MethodReader(vm)
        self._symbol, self._class_of = methods.symbol, methods.class_of
        self.objects = StringReader(vm, methods)
        fields = vm.structs.field

        def needed(*names: str) -> int:
            offset = fields(*names)
            if offset is None:
                raise UnreadableError(f"counters of direct buffers: the JVM does not say {names[0]}")
            return offset

        self._head = vm.pointer("ClassLoaderDataGraph::_head")
        self._first, self._next_loader = needed("ClassLoaderData::_klasses"), needed("ClassLoaderData::_next")
        self._next_class, self._mirror = needed("Klass::_next_link"), needed("Klass::_java_mirror")
        self._pool = needed("InstanceKlass::_constants")
        self._super = needed("Klass::_super")
        self._stream, self._array = fields("InstanceKlass::_fieldinfo_stream"), fields("InstanceKlass::_fields")
        self._n_fields = fields("InstanceKlass::_java_fields_count")
        self._pool_bytes = vm.structs.size("ConstantPool") or 0
        self._bytes_at, self._shorts_at = fields("Array<u1>::_data") or 4, fields("Array<u2>::_data") or 4

    def find(self, wanted: set[str]) -> dict[str, int]:
        """Klass by name, of the classes that are loaded."""
        found: dict[str, int] = {}
        for klass in self._classes():
            try:
                name = self._class_of(klass)
            except UnreadableError:
                continue
            if name in wanted:
                found.setdefault(name, klass)
                if len(found) == len(wanted):
                    break
        return found

    def _classes(self) -> Iterator[int]:
        loader, n_classes = self._head or 0, 0
        for _ in range(_MAX_LOADERS):
            if not loader:
                return
            klass = self._memory.u64(loader + self._first)
            while klass and n_classes < _MAX_CLASSES:
                yield klass
                n_classes += 1
                klass = self._memory.u64(klass + self._next_class)
            loader = self._memory.u64(loader + self._next_loader)

    def mirror(self, klass: int) -> int:
        """Address of the reference to the mirror of a class."""
        return self._memory.u64(klass + self._mirror)

    def super_of(self, klass: int) -> int:
        """The class above a class, 0 above Object."""
        return self._memory.u64(klass + self._super)

    def offset(self, klass: int, name: str) -> int | None:
        """Offset of a field in an object, or in the mirror of the class; None where it has no such field."""
        try:
            rows = self._packed(klass) if self._stream is not None else self._plain(klass)
            return next((offset for index, offset in rows if self._name(klass, index) == name), None)
        except (UnreadableError, struct.error):
            return None

    def _name(self, klass: int, index: int) -> str:
        pool = self._memory.u64(klass + self._pool)
        return self._symbol(self._memory.u64(pool + self._pool_bytes + 8 * index) & ~1)

    def _packed(self, klass: int) -> Iterator[tuple[int, int]]:
        """(index of the name, offset) of each field, from a stream."""
        array = self._memory.u64(klass + (self._stream or 0))
        n_bytes = self._memory.i32(array)
        data = self._memory.read(array + self._bytes_at, n_bytes)
        n_fields, place = read_unsigned5(data, 0, _STREAM_CODE)
        _, place = read_unsigned5(data, place, _STREAM_CODE)
        for _ in range(min(n_fields, _MAX_FIELDS)):
            numbers = []
            for _ in range(5):  # name, type, offset, access, flags
                number, place = read_unsigned5(data, place, _STREAM_CODE)
                numbers.append(number)
            for flag in _FLAGS_WITH_NUMBER:
                if numbers[4] >> flag & 1:
                    _, place = read_unsigned5(data, place, _STREAM_CODE)
            yield numbers[0], numbers[2]

    def _plain(self, klass: int) -> Iterator[tuple[int, int]]:
        """The same from an array of numbers."""
        if self._array is None or self._n_fields is None:
            return
        array = self._memory.u64(klass + self._array)
        n_fields = min(self._memory.u16(klass + self._n_fields), _MAX_FIELDS)
        data = self._memory.read(array + self._shorts_at, 2 * _SLOTS * n_fields)
        for _, name, _, _, low, high in struct.iter_unpack("<6H", data):
            yield name, (low | high << 16) >> 2

    def atomic(self, klass: int | None, name: str, value: int | None) -> int | None:
        """Value of an AtomicLong in a static field."""
        offset = self.offset(klass, name) if klass and value is not None else None
        if klass is None or offset is None or value is None:
            return None
        try:
            place = self.objects.find(self.mirror(klass), offset, _ATOMIC)
            return _sensible(self._memory.u64(place + value)) if place is not None else None
        except UnreadableError:
            return None

    def sum_of(self, classes: list[int], name: str, n_bytes: int) -> int | None:
        """Sum of a static field of several classes, a number of so many bytes; None where none has it."""
        values = []
        for klass in classes:
            offset = self.offset(klass, name)
            if offset is None:
                continue
            try:
                mirror = self.objects.find(self.mirror(klass), None, _MIRROR)
                if mirror is None:
                    return None
                values.append(int.from_bytes(self._memory.read(mirror + offset, n_bytes), "little"))
            except UnreadableError:
                return None
        return _sensible(sum(values)) if values else None


def _sensible(number: int) -> int | None:
    return number if number < 1 << 47 else None
