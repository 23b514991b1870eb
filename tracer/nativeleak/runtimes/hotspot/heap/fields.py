"""The fields of classes: what lies at an offset of an object.

Source: instanceKlass.hpp, fieldInfo.hpp. Up to JDK 20 an array of six 16-bit numbers a field (access, name, type,
initial value, two halves of the offset, which begins at bit 2); since JDK 21 a stream of packed numbers: the number of
fields, of injected ones, then name, type, offset, access, flags of each, and a number for each of the flags 0, 2 and 4.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.streams import CODES, read_unsigned5
from nativeleak.runtimes.hotspot.text import decode_modified_utf8

_ACC_STATIC: Final = 8
_MAX_FIELDS: Final = 1 << 14
_MAX_STREAM_BYTES: Final = 1 << 20
_MAX_OFFSET: Final = 1 << 24
_SLOTS: Final = 6
_FLAGS_WITH_NUMBER: Final = (0, 2, 4)  # initialized, generic, contended
_INJECTED: Final = 1 << 1
_MAX_SYMBOL_BYTES: Final = 4096
_MAX_DEPTH: Final = 128


class Field(NamedTuple):
    """A field.

    Attributes:
        owner: Index of the class that declares it.
        name: As in sources.
        type: As class files write it: ``J``, ``Ljava/lang/String;``.
        offset: In the object, or in the mirror of the class.
        is_static: It is the class's.
    """

    owner: int
    name: str
    type: str
    offset: int
    is_static: bool

    @property
    def refers(self) -> bool:
        """Whether it holds a reference."""
        return self.type.startswith(("L", "["))


class FieldReader:
    """Reads fields of one JVM; what was read is kept.

    Args:
        vm: The JVM.
        classes: Its classes.

    Attributes:
        n_unread: Classes whose fields could not be read.
    """

    def __init__(self, vm: HotSpot, classes: ClassTable) -> None:
        self._vm = vm
        self._classes = classes
        self._declared: dict[int, tuple[Field, ...]] = {}
        self._instance: dict[int, dict[int, Field]] = {}
        self.n_unread = 0

    def instance(self, index: int) -> dict[int, Field]:
        """Fields of a class's objects by offset, those of superclasses too."""
        found = self._instance.get(index)
        if found is None:
            found = {}
            at: int | None = index
            for _ in range(_MAX_DEPTH):
                if at is None:
                    break
                for field in self.declared(at):
                    if not field.is_static:
                        found.setdefault(field.offset, field)
                at = self._classes.super_of(at)
            self._instance[index] = found
        return found

    def by_name(self, index: int) -> dict[str, Field]:
        """Fields of a class's objects by name, the most derived class's first."""
        found: dict[str, Field] = {}
        for field in self.instance(index).values():
            found.setdefault(field.name, field)
        return found

    def static(self, index: int, offset: int) -> Field | None:
        """The static field at an offset of a class's mirror."""
        return next((each for each in self.declared(index) if each.is_static and each.offset == offset), None)

    def declared(self, index: int) -> tuple[Field, ...]:
        """Fields that a class itself declares."""
        found = self._declared.get(index)
        if found is None:
            try:
                found = () if self._classes.is_array(index) else tuple(self._read(index))
            except (UnreadableError, struct.error):
                self.n_unread += 1
                found = ()
            self._declared[index] = found
        return found

    def _read(self, index: int) -> list[Field]:
        structs = self._vm.structs
        stream = structs.field("InstanceKlass::_fieldinfo_stream")
        if stream is not None:
            return self._packed(index, stream)
        return self._listed(index)

    def _listed(self, index: int) -> list[Field]:
        structs, memory, klass = self._vm.structs, self._vm.memory, self._classes.addresses[index]
        array_at, count_at = structs.field("InstanceKlass::_fields"), structs.field("InstanceKlass::_java_fields_count")
        if array_at is None or count_at is None:
            raise UnreadableError("the JVM does not describe fields")
        data, length = self._array("u2", memory.u64(klass + array_at))
        n_fields = memory.u16(klass + count_at)
        if n_fields > _MAX_FIELDS or n_fields * _SLOTS > length:
            raise UnreadableError("reading the fields of a class failed: impossible number")
        raw = memory.read(data, 2 * _SLOTS * n_fields) if n_fields else b""
        found = []
        for slots in struct.iter_unpack(f"<{_SLOTS}H", raw):
            access, name, kind, _, low, high = slots
            found.append(self._field(index, name, kind, (low | high << 16) >> 2, access))
        return found

    def _packed(self, index: int, stream_at: int) -> list[Field]:
        memory, klass = self._vm.memory, self._classes.addresses[index]
        data, length = self._array("u1", memory.u64(klass + stream_at))
        if not 0 < length <= _MAX_STREAM_BYTES:
            raise UnreadableError("reading the fields of a class failed: impossible length")
        raw = memory.read(data, length)
        last: UnreadableError | None = None
        for excluded in CODES:
            try:
                return self._parsed(index, raw, excluded)
            except UnreadableError as error:
                last = error
        raise last or UnreadableError("reading the fields of a class failed")

    def _parsed(self, index: int, raw: bytes, excluded: int) -> list[Field]:
        n_fields, place = read_unsigned5(raw, 0, excluded)
        _, place = read_unsigned5(raw, place, excluded)
        if n_fields > _MAX_FIELDS:
            raise UnreadableError("reading the fields of a class failed: impossible number")
        found = []
        for _ in range(n_fields):
            numbers = []
            for _ in range(5):
                number, place = read_unsigned5(raw, place, excluded)
                numbers.append(number)
            name, kind, offset, access, flags = numbers
            for bit in _FLAGS_WITH_NUMBER:
                if flags >> bit & 1:
                    _, place = read_unsigned5(raw, place, excluded)
            if not flags & _INJECTED:
                found.append(self._field(index, name, kind, offset, access))
        return found

    def _array(self, element: str, address: int) -> tuple[int, int]:
        """(first element, length) of an Array<> of the JVM."""
        structs = self._vm.structs
        length = structs.field(f"Array<{element}>::_length", "Array<int>::_length")
        data = structs.field(f"Array<{element}>::_data", f"Array<{element}>::_data[0]")
        if data is None:
            data = 4
        return address + data, self._vm.memory.i32(address + (length or 0))

    def _field(self, index: int, name: int, kind: int, offset: int, access: int) -> Field:
        if offset >= _MAX_OFFSET:
            raise UnreadableError("reading the fields of a class failed: impossible offset")
        is_static = bool(access & _ACC_STATIC)
        return Field(index, self._text(index, name), self._text(index, kind), offset, is_static)

    def _text(self, index: int, entry: int) -> str:
        """A text of a class's constant pool."""
        structs, memory = self._vm.structs, self._vm.memory
        pool_at, pool_bytes = structs.field("InstanceKlass::_constants"), structs.size("ConstantPool")
        length_at, body_at = structs.field("Symbol::_length"), structs.field("Symbol::_body", "Symbol::_body[0]")
        n_entries_at = structs.field("ConstantPool::_length")
        if pool_at is None or pool_bytes is None or length_at is None or body_at is None:
            raise UnreadableError("the JVM does not describe its constant pools")
        pool = memory.u64(self._classes.addresses[index] + pool_at)
        if n_entries_at is not None and not 0 < entry < memory.i32(pool + n_entries_at):
            raise UnreadableError("reading a field failed: its name is outside of the constant pool")
        symbol = memory.u64(pool + pool_bytes + 8 * entry) & ~1
        n_bytes = memory.u16(symbol + length_at)
        if not 0 < n_bytes <= _MAX_SYMBOL_BYTES:
            raise UnreadableError("reading a field failed: it has no name")
        return decode_modified_utf8(memory.read(symbol + body_at, n_bytes))
