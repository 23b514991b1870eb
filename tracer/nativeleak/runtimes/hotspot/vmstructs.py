"""VMStructs: the tables in which HotSpot describes its own types, fields and constants to debuggers.

Scope: the tables as dictionaries. Fields come, go and move between releases and between builds of one release, so that
each is asked for by name, under every name it has had, and each may be missing; nothing here knows of versions.

Source: vmStructs.hpp in the HotSpot sources (VMStructEntry, VMTypeEntry, VMIntConstantEntry, VMLongConstantEntry); the
layout of the entries is itself exported, as ``gHotSpotVM*Offset`` and ``gHotSpotVM*Stride``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from nativeleak.runtimes.hotspot.memory import Memory, UnreadableError

_TABLES: Final = {
    "Struct": ("TypeName", "FieldName", "TypeString", "IsStatic", "Offset", "Address"),
    "Type": ("TypeName", "Size"),
    "IntConstant": ("Name", "Value"),
    "LongConstant": ("Name", "Value"),
}
EXPORTS: Final = tuple(
    name
    for table, columns in _TABLES.items()
    for name in (
        f"gHotSpotVM{table}s",
        f"gHotSpotVM{table}EntryArrayStride",
        *(f"gHotSpotVM{table}Entry{column}Offset" for column in columns),
    )
)
"""Variables of libjvm.so that lead to the tables; all are in its dynamic symbol table."""

_MAX_ENTRIES: Final = 20_000
_MAX_STRIDE: Final = 256
_MAX_OFFSET: Final = 1 << 20


class VmStructs:
    """What one JVM says of itself.

    Args:
        memory: Of the target.
        address: Gives the address of a name of ``EXPORTS``, or None.

    Raises:
        UnreadableError: The tables are not there, or not filled yet: the JVM may be about to start.
    """

    def __init__(self, memory: Memory, address: Callable[[str], int | None]) -> None:
        self._memory = memory
        self._address = address
        self._fields: dict[str, int] = {}
        self._statics: dict[str, int] = {}
        self._types: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._constants: dict[str, int] = {}
        self._read_structs()
        for entry, column in self._entries("Type"):
            self._sizes[self._text(entry, column["TypeName"])] = _u64(entry, column["Size"])
        for entry, column in self._entries("IntConstant"):
            self._constants[self._text(entry, column["Name"])] = _i32(entry, column["Value"])
        for entry, column in self._entries("LongConstant"):
            self._constants[self._text(entry, column["Name"])] = _u64(entry, column["Value"])
        if not self._fields or not self._sizes:
            raise UnreadableError("reading the JVM's description of itself failed: it is empty")

    def field(self, *names: str) -> int | None:
        """Offset of a field, ``Type::field``, under the first of these names that there is; None without any."""
        for name in names:
            offset = self._fields.get(name)
            if offset is not None and offset < _MAX_OFFSET:
                return offset
        return None

    def static(self, *names: str) -> int | None:
        """Address of a static field, under the first of these names that there is; None without any."""
        return next((self._statics[name] for name in names if self._statics.get(name)), None)

    def type_of(self, name: str) -> str:
        """Type of a field as C++ writes it; empty where there is no such field."""
        return self._types.get(name, "")

    def size(self, name: str) -> int | None:
        """Size of a type in bytes, None where it is not described or has none."""
        return self._sizes.get(name) or None

    def constant(self, name: str) -> int | None:
        """Value of a constant, None where there is no such constant."""
        return self._constants.get(name)

    def __len__(self) -> int:
        return len(self._fields) + len(self._statics)

    def _read_structs(self) -> None:
        for entry, column in self._entries("Struct"):
            name = f"{self._text(entry, column['TypeName'])}::{self._text(entry, column['FieldName'])}"
            self._types[name] = self._text(entry, column["TypeString"])
            if _i32(entry, column["IsStatic"]):
                self._statics[name] = _u64(entry, column["Address"])
            else:
                self._fields[name] = _u64(entry, column["Offset"])

    def _entries(self, table: str) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The entries of a table, and where in each its columns are; an entry without a name ends the table."""
        column = {name: self._number(f"gHotSpotVM{table}Entry{name}Offset") for name in _TABLES[table]}
        stride = self._number(f"gHotSpotVM{table}EntryArrayStride")
        if not 0 < stride <= _MAX_STRIDE or max(column.values()) >= stride:
            raise UnreadableError("reading the JVM's description of itself failed: impossible layout")
        place = self._number(f"gHotSpotVM{table}s")
        name_column = column["TypeName" if "TypeName" in column else "Name"]
        for _ in range(_MAX_ENTRIES):
            entry = self._memory.read(place, stride)
            if not _u64(entry, name_column):
                return
            yield entry, column
            place += stride
        raise UnreadableError("reading the JVM's description of itself failed: a table has no end")

    def _number(self, name: str) -> int:
        address = self._address(name)
        if address is None:
            raise UnreadableError(f"reading the JVM's description of itself failed: libjvm.so does not export {name}")
        return self._memory.u64(address)

    def _text(self, entry: bytes, column: int) -> str:
        address = _u64(entry, column)
        return self._memory.cstr(address) if address else ""


def _u64(entry: bytes, place: int) -> int:
    return int.from_bytes(entry[place : place + 8], "little")


def _i32(entry: bytes, place: int) -> int:
    return int.from_bytes(entry[place : place + 4], "little", signed=True)
