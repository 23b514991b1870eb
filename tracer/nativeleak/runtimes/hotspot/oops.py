"""Java objects: following references, and the text of a String.

Scope: strings, wherever they lie. How a JVM writes references and headers depends on its collector and its flags;
rather than asking for these, every way is tried on a string, and the one under which it proves to be a String with an
array of bytes is kept. Objects move while they are read: what does not prove itself is not believed.

Source: oop.hpp, arrayOop.hpp, klass.hpp (layout_helper), compressedOops.hpp, compressedKlass.hpp, markWord.hpp,
zAddress.hpp.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.jvm import STRING_CODER, STRING_VALUE, HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.methods import MethodReader

MAX_TEXT_BYTES: Final = 4096

_STRING: Final = "java/lang/String"
_CODER_LATIN1, _CODER_UTF16 = 0, 1
# layout_helper of an array of bytes: tag 0b11 (elements are no references), header size, T_BYTE, log2 of 1.
_BYTE_ARRAY_MASK: Final = 0xFF00_FFFF
_BYTE_ARRAY: Final = 0xC000_0800
_HEADER_SHIFT: Final = 16
# A coloured pointer of generational ZGC on x86-64: one bit of 12 to 15 is set, the address begins above it
# (ZPointer::load_shift_lookup). Elsewhere the address begins at the published shift.
_REMAPPED_MASK: Final = 0xF000


class _Scheme(NamedTuple):
    """One way of writing objects.

    Attributes:
        reference: ``narrow``, ``plain`` or ``coloured``.
        header: ``narrow``, ``wide`` or ``compact``: where the class is and how it is written.
    """

    reference: str
    header: str


_SCHEMES: Final = tuple(
    _Scheme(reference, header)
    for reference in ("narrow", "plain", "coloured")
    for header in ("narrow", "compact", "wide")
)


class StringReader:
    """Reads Strings of one JVM.

    Args:
        vm: The JVM.
        methods: Gives the names of classes.

    Raises:
        UnreadableError: The JVM does not say where a String has its text.
    """

    def __init__(self, vm: HotSpot, methods: MethodReader) -> None:
        self._vm = vm
        self._memory = vm.memory
        self._methods = methods
        self._value = field_offset(vm, *STRING_VALUE)
        self._coder = field_offset(vm, *STRING_CODER)
        structs = vm.structs
        klass = structs.field("oopDesc::_metadata._klass")
        layout_helper = structs.field("Klass::_layout_helper")
        if klass is None or layout_helper is None:
            raise UnreadableError("reading Java objects failed: the JVM does not describe them")
        self._klass, self._layout_helper = klass, layout_helper
        self._mark_shift = structs.constant("markWord::klass_shift")
        self._narrow_oop = _base_and_shift(
            vm,
            ("CompressedOops::_base", "CompressedOops::_narrow_oop._base", "Universe::_narrow_oop._base"),
            ("CompressedOops::_shift", "CompressedOops::_narrow_oop._shift", "Universe::_narrow_oop._shift"),
        )
        self._narrow_klass = _base_and_shift(
            vm,
            (
                "CompressedKlassPointers::_base",
                "CompressedKlassPointers::_narrow_klass._base",
                "Universe::_narrow_klass._base",
            ),
            (
                "CompressedKlassPointers::_shift",
                "CompressedKlassPointers::_narrow_klass._shift",
                "Universe::_narrow_klass._shift",
            ),
        )
        self._load_shift = _z_load_shift(vm)
        self._scheme: _Scheme | None = None
        self._proven: _Scheme | None = None
        self._strings: set[int] = set()
        self._byte_arrays: dict[int, int] = {}

    def read_at(self, handle: int, offset: int) -> str | None:
        """Text of a String that a field of an object refers to, None where it proves to be none.

        Args:
            handle: Address of a reference, full width, to the object.
            offset: Of the field in the object.
        """
        schemes = [self._scheme] if self._scheme is not None else []
        for scheme in (*schemes, *_SCHEMES):
            try:
                text = self._read(handle, offset, scheme)
            except UnreadableError:
                continue
            if text is not None:
                self._scheme = scheme
                return text
        return None

    def find(self, handle: int, offset: int | None, name: str) -> int | None:
        """An object of a class, None where none proves to be one.

        Args:
            handle: Address of a reference, full width, to an object.
            offset: Of a field in it that refers to the object; None for the object of the handle itself.
            name: Internal name of the class, ``java/lang/Class``.
        """
        schemes = [self._scheme] if self._scheme is not None else []
        for scheme in (*schemes, *_SCHEMES):
            try:
                for owner in self._full(handle, scheme):
                    found = (owner,) if offset is None else self._references(owner + offset, scheme)
                    for place in found:
                        if self._methods.class_of(self._class_at(place, scheme)) == name:
                            self._proven = scheme if offset is not None else self._proven
                            return place
            except UnreadableError:
                continue
        return None

    def follow(self, address: int) -> int | None:
        """The object that a reference in the heap means, None for null; ``find`` has proven how they are written.

        Args:
            address: Of the reference.

        Raises:
            UnreadableError: It means no object that is in memory, or nothing was proven before.
        """
        scheme = self._proven
        if scheme is None:
            raise UnreadableError("reading a Java object failed: it is not known how this JVM writes references")
        if scheme.reference == "narrow":
            is_null = not self._memory.u32(address)
            return None if is_null else next(self._references(address, scheme))
        places = list(self._references(address, scheme))
        if not any(places):
            return None  # a coloured null has its colour alone
        if scheme.reference == "plain":
            return places[0]
        for place in places:
            with contextlib.suppress(UnreadableError):
                if self._methods.class_of(self._class_at(place, scheme)):
                    return place
        raise UnreadableError(f"reading a Java object failed: the reference at {address:#x} leads to none")

    def klass_of(self, oop: int) -> int:
        """Klass of an object; raises as ``follow`` does."""
        if self._proven is None:
            raise UnreadableError("reading a Java object failed: it is not known how this JVM writes headers")
        return self._class_at(oop, self._proven)

    def class_name(self, klass: int) -> str:
        """Internal name of a class; raises as ``follow`` does."""
        return self._methods.class_of(klass)

    def elements(self, array: int) -> tuple[int, int]:
        """(address of the first, bytes of each) element of an array; raises as ``follow`` does."""
        helper = self._memory.u32(self.klass_of(array) + self._layout_helper)
        if helper >> 31 == 0:
            raise UnreadableError(f"reading a Java object failed: the one at {array:#x} is no array")
        return array + (helper >> _HEADER_SHIFT & 0xFF), 1 << (helper & 0x3F)

    def _read(self, handle: int, offset: int, scheme: _Scheme) -> str | None:
        for owner in self._full(handle, scheme):
            for string in self._references(owner + offset, scheme):
                if not self._is_string(self._class_at(string, scheme)):
                    continue
                for value in self._references(string + self._value, scheme):
                    text = self._text(value, self._memory.u8(string + self._coder), scheme)
                    if text is not None:
                        return text
        return None

    def _full(self, address: int, scheme: _Scheme) -> Iterator[int]:
        """Objects that a reference outside of the heap may mean; it is never compressed."""
        value = self._memory.u64(address)
        return self._uncoloured(value) if scheme.reference == "coloured" else iter((value,))

    def _references(self, address: int, scheme: _Scheme) -> Iterator[int]:
        """Objects that a reference in the heap may mean."""
        if scheme.reference != "narrow":
            return self._full(address, scheme)
        if self._narrow_oop is None:
            return iter(())
        base, shift = self._narrow_oop
        return iter((base + (self._memory.u32(address) << shift),))

    def _uncoloured(self, value: int) -> Iterator[int]:
        if self._load_shift is None:
            return
        remapped = value & _REMAPPED_MASK
        if remapped:
            yield value >> (remapped & -remapped).bit_length()
        yield value >> self._load_shift

    def _class_at(self, oop: int, scheme: _Scheme) -> int:
        """The Klass of an object."""
        if scheme.header == "wide":
            return self._memory.u64(oop + self._klass)
        if self._narrow_klass is None:
            raise UnreadableError("reading a Java object failed: the JVM does not say how it writes classes")
        base, shift = self._narrow_klass
        if scheme.header == "narrow":
            return base + (self._memory.u32(oop + self._klass) << shift)
        if self._mark_shift is None:
            raise UnreadableError("reading a Java object failed: the JVM has no compact headers")
        return base + (self._memory.u64(oop) >> self._mark_shift << shift)

    def _is_string(self, klass: int) -> bool:
        if klass not in self._strings:
            if self._methods.class_of(klass) != _STRING:
                return False
            self._strings.add(klass)
        return True

    def _text(self, array: int, coder: int, scheme: _Scheme) -> str | None:
        if coder not in (_CODER_LATIN1, _CODER_UTF16):
            return None
        klass = self._class_at(array, scheme)
        if klass not in self._byte_arrays:
            helper = self._memory.u32(klass + self._layout_helper)
            if helper & _BYTE_ARRAY_MASK != _BYTE_ARRAY:
                return None
            self._byte_arrays[klass] = helper >> _HEADER_SHIFT & 0xFF
        header_bytes = self._byte_arrays[klass]
        # The length follows the class, the bytes follow the length; with a wide class they began at the next word
        # before JDK 23.
        length_offset = self._klass + 8 if scheme.header == "wide" else header_bytes - 4
        n_bytes = self._memory.i32(array + length_offset)
        if not 0 <= n_bytes < 1 << 30 or (coder == _CODER_UTF16 and n_bytes % 2):
            return None
        data = self._memory.read(array + header_bytes, min(n_bytes, MAX_TEXT_BYTES))
        return data.decode("latin-1" if coder == _CODER_LATIN1 else "utf-16-le", "replace")


def field_offset(vm: HotSpot, *names: str) -> int:
    """Offset of a Java field, from the variable in which libjvm.so keeps it.

    Args:
        vm: The JVM.
        names: Mangled names that the variable has had.

    Raises:
        UnreadableError: There is none: the full symbol table was stripped.
    """
    address = next((each for each in map(vm.libjvm.address, names) if each is not None), None)
    offset = vm.memory.i32(address) if address is not None else 0
    if not 0 < offset < 1 << 16:
        raise UnreadableError(f"reading Java objects failed: libjvm.so has no symbol {names[0]}; is it stripped?")
    return offset


def _base_and_shift(vm: HotSpot, bases: tuple[str, ...], shifts: tuple[str, ...]) -> tuple[int, int] | None:
    base, shift = vm.structs.static(*bases), vm.structs.static(*shifts)
    if base is None or shift is None:
        return None
    try:
        n_bits = vm.memory.i32(shift)
        return (vm.memory.u64(base), n_bits) if 0 <= n_bits < 16 else None
    except UnreadableError:
        return None


def _z_load_shift(vm: HotSpot) -> int | None:
    """How far generational ZGC shifts its references, None where the JVM has no such collector."""
    field = vm.structs.field("ZGlobalsForVMStructs::_ZPointerLoadShift")
    shared = vm.pointer("ZGlobalsForVMStructs::_instance_p")
    if field is None or shared is None:
        return None
    try:
        shift = vm.memory.u64(vm.memory.u64(shared + field))
    except UnreadableError:
        return None
    return shift if 0 < shift < 32 else None
