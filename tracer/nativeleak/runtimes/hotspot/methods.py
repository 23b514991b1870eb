"""Methods: name, source file and lines, from the JVM's Method structures.

Source: method.hpp, constMethod.hpp (the bytecode follows the structure, the packed line table follows the bytecode),
constantPool.hpp (the entries follow the structure, one word each), symbol.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nativeleak.runtimes.hotspot.identity import ARCHIVED, Name, method_cookie
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.streams import LineTable, read_line_table
from nativeleak.runtimes.hotspot.text import decode_modified_utf8, method_name
from nativeleak.symbols.demangle import printable

_MAX_NAME_BYTES: Final = 4096
_MAX_CONST_METHOD_BYTES: Final = 1 << 20
_WORD_BYTES: Final = 8
_ALL_BITS: Final = (1 << 64) - 1
_ACC_NATIVE: Final = 0x100  # JVMS 4.6
_KNOWN_METHODS: Final = 4096


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """One method.

    Attributes:
        name: Class and method, ``java.util.HashMap.put``.
        file: Source file, where the class says.
        const_method: Address of its ConstMethod.
        cookie: What tells it from another method that has its addresses later, see ``identity``.
        code: Address of its bytecode.
        code_bytes: Length of it; 0 for native and abstract methods.
        is_native: It has no bytecode because it is native.
        lines: Empty where the class was compiled without.
    """

    name: str
    file: str | None
    const_method: int
    cookie: int
    code: int
    code_bytes: int
    is_native: bool
    lines: LineTable

    def line(self, bci: int) -> int | None:
        """Source line of a bytecode; an index before the first (-1: on entry to a synchronized method) counts as 0."""
        return self.lines.line(max(bci, 0))


def symbol_mask(vm: HotSpot) -> int:
    """Which bits of a Symbol's first 8 bytes stay the same as long as it lives: not its reference count.

    Source: symbol.hpp; since JDK 13 the count is the lower half of _hash_and_refcount.
    """
    field = vm.structs.field
    count = field("Symbol::_refcount", "Symbol::_hash_and_refcount")
    if count is not None and 0 <= count <= _WORD_BYTES - 2:
        return _ALL_BITS ^ 0xFFFF << 8 * count
    length = field("Symbol::_length")
    return 0 if length is None or length > _WORD_BYTES - 2 else 0xFFFF << 8 * length


def archive_range(vm: HotSpot) -> tuple[int, int]:
    """First address and end of the classes that come from the JVM's archive (CDS); both 0 where it has none."""
    low = vm.pointer("MetaspaceObj::_shared_metaspace_base")
    high = vm.pointer("MetaspaceObj::_shared_metaspace_top")
    return (0, 0) if low is None or high is None else (low, high)


class MethodReader:
    """Reads methods of one JVM; what was read is kept until ``forget``.

    Args:
        vm: The JVM.

    Raises:
        UnreadableError: It does not describe its methods.
    """

    def __init__(self, vm: HotSpot) -> None:
        self._memory = vm.memory
        self._facts: dict[int, MethodFacts] = {}
        structs = vm.structs

        def needed(value: int | None, name: str) -> int:
            if value is None:
                raise UnreadableError(f"reading Java methods failed: the JVM does not say {name}")
            return value

        self._const_method = needed(structs.field("Method::_constMethod"), "Method::_constMethod")
        self._pool = needed(structs.field("ConstMethod::_constants"), "ConstMethod::_constants")
        self._name_index = needed(structs.field("ConstMethod::_name_index"), "ConstMethod::_name_index")
        self._code_size = needed(structs.field("ConstMethod::_code_size"), "ConstMethod::_code_size")
        self._header_bytes = needed(structs.size("ConstMethod"), "the size of a ConstMethod")
        self._pool_bytes = needed(structs.size("ConstantPool"), "the size of a ConstantPool")
        self._holder = needed(structs.field("ConstantPool::_pool_holder"), "ConstantPool::_pool_holder")
        self._class_name = needed(structs.field("Klass::_name"), "Klass::_name")
        self._symbol_length = needed(structs.field("Symbol::_length"), "Symbol::_length")
        self._symbol_body = needed(structs.field("Symbol::_body", "Symbol::_body[0]"), "Symbol::_body")
        self._symbol_mask = symbol_mask(vm)
        self._archive = archive_range(vm)
        self._pool_length = structs.field("ConstantPool::_length")
        self._access_flags = structs.field("Method::_access_flags")
        self._file_in_pool = structs.field("ConstantPool::_source_file_name_index")
        self._file_in_class = structs.field("InstanceKlass::_source_file_name_index")
        self._const_method_size = structs.field("ConstMethod::_constMethod_size")
        self._flags = structs.field("ConstMethod::_flags", "ConstMethod::_flags._flags")
        has_lines = structs.constant("ConstMethodFlags::_misc_has_linenumber_table")
        self._has_lines = has_lines or structs.constant("ConstMethod::_has_linenumber_table")

    def forget(self) -> None:
        """Forget all methods: the memory of one that was unloaded may belong to another by now."""
        self._facts.clear()

    def read(self, method: int) -> MethodFacts:
        """What is known of a method.

        Args:
            method: Address of its Method.

        Raises:
            UnreadableError: There is none at that address.
        """
        facts = self._facts.get(method)
        if facts is None:
            if len(self._facts) >= _KNOWN_METHODS:
                self._facts.clear()
            facts = self._facts[method] = self._read(method)
        return facts

    def symbol(self, address: int) -> str:
        """Text of a Symbol, never empty.

        Raises:
            UnreadableError: There is none at that address.
        """
        return decode_modified_utf8(self._name_at(address).text)

    def _name_at(self, address: int) -> Name:
        memory = self._memory
        n_bytes = memory.u16(address + self._symbol_length)
        if not 0 < n_bytes <= _MAX_NAME_BYTES:
            raise UnreadableError(f"reading a Java name at {address:#x} failed: {n_bytes} bytes")
        text = memory.read(address + self._symbol_body, n_bytes)
        return Name(address, memory.u64(address) & self._symbol_mask, text)

    def class_of(self, klass: int) -> str:
        """Internal name of a class, ``java/lang/String``.

        Raises:
            UnreadableError: There is none at that address.
        """
        return self.symbol(self._memory.u64(klass + self._class_name))

    def _read(self, method: int) -> MethodFacts:
        memory = self._memory
        const_method = memory.u64(method + self._const_method)
        pool = memory.u64(const_method + self._pool)
        holder = memory.u64(pool + self._holder)
        name = self._name_at(self._in_pool(pool, memory.u16(const_method + self._name_index)))
        owner = self._name_at(memory.u64(holder + self._class_name))
        low, high = self._archive
        n_bytes = memory.u16(const_method + self._code_size)
        is_native = self._access_flags is not None and bool(memory.u16(method + self._access_flags) & _ACC_NATIVE)
        return MethodFacts(
            method_name(decode_modified_utf8(owner.text), decode_modified_utf8(name.text)),
            self._file(pool, holder),
            const_method,
            ARCHIVED if low <= method < high else method_cookie(const_method, owner, name),
            const_method + self._header_bytes,
            n_bytes,
            is_native,
            self._lines(const_method, n_bytes),
        )

    def _in_pool(self, pool: int, index: int) -> int:
        if self._pool_length is not None and not 0 < index < self._memory.i32(pool + self._pool_length):
            raise UnreadableError(f"reading a Java name failed: entry {index} of a smaller constant pool")
        return self._memory.u64(pool + self._pool_bytes + _WORD_BYTES * index)

    def _file(self, pool: int, holder: int) -> str | None:
        try:
            if self._file_in_pool is not None:
                index = self._memory.u16(pool + self._file_in_pool)
            elif self._file_in_class is not None:
                index = self._memory.u16(holder + self._file_in_class)
            else:
                return None
            return printable(self.symbol(self._in_pool(pool, index))) if index else None
        except UnreadableError:
            return None

    def _lines(self, const_method: int, code_bytes: int) -> LineTable:
        if self._flags is None or self._has_lines is None or self._const_method_size is None or not code_bytes:
            return LineTable(())
        try:
            if not self._memory.u16(const_method + self._flags) & self._has_lines:
                return LineTable(())
            total = self._memory.i32(const_method + self._const_method_size) * _WORD_BYTES
            start = self._header_bytes + code_bytes
            if not start < total <= _MAX_CONST_METHOD_BYTES:
                return LineTable(())
            return read_line_table(self._memory.read(const_method + start, total - start), code_bytes)
        except UnreadableError:
            return LineTable(())
