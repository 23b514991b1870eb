"""Where fields of the kernel's structures lie, as the running kernel itself says (BTF).

Scope: offsets of named fields of structures, for the engine that compiles on the spot; libbpf does the same by
relocations. And whole structures and enums of an object that was compiled, to compare ``abi.py`` with.
Source: include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

BTF_PATH: Final = Path("/sys/kernel/btf/vmlinux")
_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")
_TYPE: Final = struct.Struct("=III")
_MEMBER: Final = struct.Struct("=III")
_ENUMERATOR: Final = struct.Struct("=Ii")
_ARRAY: Final = struct.Struct("=III")
_INTEGER_KIND, _POINTER_KIND, _ARRAY_KIND = 1, 2, 3
_STRUCT, _UNION = 4, 5
_ENUM, _FUNCTION = 6, 12
_ALIASES: Final = (8, 9, 10, 11, 18)
"""typedef, volatile, const, restrict, type tag: as large as the type that they name."""
_POINTER_BYTES: Final = 8
_T = TypeVar("_T")
# Kind -> bytes behind the type: of all, and for each of vlen.
_TAILS: Final = {
    1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0), 10: (0, 0),
    11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0), 18: (0, 0), 19: (0, 12),
}  # fmt: skip


def read_offsets(fields: Iterable[tuple[str, str]], path: Path = BTF_PATH) -> dict[tuple[str, str], int]:
    """Offsets in bytes of (structure, field) in the running kernel.

    Raises:
        OSError: The kernel has no type information.
        ValueError: It is not as expected, or there is no such field.
    """
    return parse_offsets(path.read_bytes(), fields)


def parse_offsets(btf: bytes, fields: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """As ``read_offsets``, of type information that was read. A field may lie in nameless structures inside.

    Raises:
        ValueError: The type information is damaged, or has no such field.
    """
    try:
        types = _Types(btf)
        found = {(name, field): types.offset_of(name, field) for name, field in fields}
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"the kernel's type information cannot be read: {error!r}") from error
    missing = [f"{name}.{field}" for (name, field), offset in found.items() if offset is None]
    if missing:
        raise ValueError(f"the kernel's type information has no {', '.join(missing)}")
    return {where: offset for where, offset in found.items() if offset is not None}


def find_function(btf: bytes, name: str) -> int:
    """The number of a function of the kernel.

    Raises:
        ValueError: The type information is damaged, or has no such function.
    """
    try:
        return _Types(btf).number_of_function(name)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"the kernel's type information cannot be read: {error!r}") from error


class Member(NamedTuple):
    """A field of a structure: where it lies and how large it is, in bytes."""

    offset: int
    n_bytes: int


class Record(NamedTuple):
    """A structure: its size in bytes, and its fields in their order, with those of nameless structures inside."""

    n_bytes: int
    members: dict[str, Member]


def parse_records(btf: bytes) -> dict[str, Record]:
    """All structures that have a name and fields.

    Raises:
        ValueError: The type information is damaged.
    """
    return _read_all(btf, _Types.records)


def parse_enums(btf: bytes) -> dict[str, dict[str, int]]:
    """All enums that have a name: constant -> value.

    Raises:
        ValueError: The type information is damaged.
    """
    return _read_all(btf, _Types.enums)


def _read_all(btf: bytes, read: Callable[[_Types], dict[str, _T]]) -> dict[str, _T]:
    try:
        return read(_Types(btf))
    except (struct.error, IndexError, KeyError, RecursionError) as error:
        raise ValueError(f"the type information cannot be read: {error!r}") from error


class _Types:
    """The types by number: where each lies, and the structures by name."""

    def __init__(self, btf: bytes) -> None:
        magic, _, _, header_bytes, type_off, type_len, str_off, str_len = _HEADER.unpack_from(btf)
        if magic != _MAGIC:
            raise ValueError("the kernel's type information cannot be read: no BTF in this byte order")
        self._types = btf[header_bytes + type_off : header_bytes + type_off + type_len]
        self._strings = btf[header_bytes + str_off : header_bytes + str_off + str_len]
        self._at = [-1]
        at = 0
        while at < len(self._types):
            self._at.append(at)
            info = _TYPE.unpack_from(self._types, at)[1]
            fixed, each = _TAILS[info >> 24 & 0x1F]
            at += _TYPE.size + fixed + each * (info & 0xFFFF)

    def _name(self, offset: int) -> bytes:
        return self._strings[offset : self._strings.index(b"\0", offset)]

    def _members(self, at: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, type and offset in bits of each member of the structure at a place."""
        info = _TYPE.unpack_from(self._types, at)[1]
        for i in range(info & 0xFFFF):
            name, type_id, bits = _MEMBER.unpack_from(self._types, at + _TYPE.size + i * _MEMBER.size)
            # With bit fields in it, the upper byte of the offset is a width.
            yield self._name(name), type_id, bits & 0xFFFFFF if info >> 31 else bits

    def _is_record(self, at: int) -> bool:
        return _TYPE.unpack_from(self._types, at)[1] >> 24 & 0x1F in (_STRUCT, _UNION)

    def offset_of(self, name: str, field: str) -> int | None:
        """Bytes from the start of a structure to one of its fields; None where there is none."""
        wanted, text = field.encode(), name.encode()
        for at in self._at[1:]:
            name_at, info, _ = _TYPE.unpack_from(self._types, at)
            if info >> 24 & 0x1F == _STRUCT and info & 0xFFFF and self._name(name_at) == text:
                return self._find(at, wanted)
        return None

    def number_of_function(self, name: str) -> int:
        """See ``find_function``."""
        text = name.encode()
        for number, at in enumerate(self._at[1:], 1):
            name_at, info, _ = _TYPE.unpack_from(self._types, at)
            if info >> 24 & 0x1F == _FUNCTION and self._name(name_at) == text:
                return number
        raise ValueError(f"the kernel's type information has no function {name}")

    def _find(self, at: int, field: bytes) -> int | None:
        for name, type_id, bits in self._members(at):
            if name == field:
                return bits // 8
            inner = self._at[type_id]
            if not name and self._is_record(inner):
                offset = self._find(inner, field)
                if offset is not None:
                    return bits // 8 + offset
        return None

    def records(self) -> dict[str, Record]:
        """See ``parse_records``."""
        found = {}
        for at in self._at[1:]:
            name_at, info, n_bytes = _TYPE.unpack_from(self._types, at)
            if info >> 24 & 0x1F == _STRUCT and info & 0xFFFF and name_at:
                found[self._name(name_at).decode()] = Record(n_bytes, dict(self._flat_members(at)))
        return found

    def enums(self) -> dict[str, dict[str, int]]:
        """See ``parse_enums``."""
        found = {}
        for at in self._at[1:]:
            name_at, info, _ = _TYPE.unpack_from(self._types, at)
            if info >> 24 & 0x1F == _ENUM and name_at:
                places = (at + _TYPE.size + i * _ENUMERATOR.size for i in range(info & 0xFFFF))
                pairs = (_ENUMERATOR.unpack_from(self._types, place) for place in places)
                found[self._name(name_at).decode()] = {self._name(name).decode(): value for name, value in pairs}
        return found

    def _flat_members(self, at: int, base: int = 0) -> Iterator[tuple[str, Member]]:
        for name, type_id, bits in self._members(at):
            if name or not self._is_record(self._at[type_id]):
                yield name.decode(), Member(base + bits // 8, self._n_bytes(type_id))
            else:
                yield from self._flat_members(self._at[type_id], base + bits // 8)

    def _n_bytes(self, type_id: int) -> int:
        """Size of a type; 0 of one that has none."""
        at, factor = self._at[type_id], 1
        while True:
            _, info, value = _TYPE.unpack_from(self._types, at)
            kind = info >> 24 & 0x1F
            if kind == _ARRAY_KIND:
                element, _, n = _ARRAY.unpack_from(self._types, at + _TYPE.size)
                at, factor = self._at[element], factor * int(n)
            elif kind in _ALIASES:
                at = self._at[value]
            elif kind == _POINTER_KIND:
                return factor * _POINTER_BYTES
            else:
                return factor * int(value) if kind in (_INTEGER_KIND, _STRUCT, _UNION, _ENUM) else 0
