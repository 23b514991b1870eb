"""Compiled methods: which method, and which ones are inlined at a place of its code.

Source: nmethod.hpp and compiledMethod.hpp (the parts of an nmethod), pcDesc.hpp, debugInfoRec.cpp (describe_scope: a
scope is sender, method and bytecode index, packed; all are offsets from the start of the scopes, 0 is none).
"""

from __future__ import annotations

import array
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.codecache import CodeCache
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.streams import CODES, read_unsigned5

NMETHOD: Final = "nmethod"
NATIVE_WRAPPER: Final = "native nmethod"
"""What blobs with compiled methods call themselves."""

MAX_INLINED: Final = 128
"""Scopes followed at one place; MaxInlineLevel is 15 by default, recursive and forced inlining come on top."""

_PC_DESC_INTS: Final = 4  # PcDesc: pc offset, scope offset, object offset, flags
_MAX_PART_BYTES: Final = 4 << 20
_MAX_METADATA: Final = 1 << 20
_WORD_BYTES: Final = 8
_KNOWN_PARTS: Final = 256
# The code of packed numbers is settled once for a JVM, by so many chains that only make sense in one.
_ENOUGH_VOTES: Final = 12
_MAX_SAMPLED: Final = 4096
_MAX_SAMPLED_SCOPES: Final = 64


class Scope(NamedTuple):
    """One method at one place of compiled code.

    Attributes:
        method: Address of its Method.
        bci: Bytecode index; -1 on entry to a synchronized method, None where it is not recorded.
    """

    method: int
    bci: int | None


class _Parts(NamedTuple):
    """Of an nmethod: what is needed to find scopes."""

    code: int
    pc_offsets: array.array[int]
    scope_offsets: array.array[int]
    scopes: bytes
    metadata: int


class NmethodReader:
    """Reads compiled methods of one JVM.

    Args:
        vm: The JVM.
        code_cache: Where its compiled methods are.

    Raises:
        UnreadableError: It does not describe its compiled methods.
    """

    def __init__(self, vm: HotSpot, code_cache: CodeCache) -> None:
        self._memory = vm.memory
        self._code_cache = code_cache
        self._code: int | None = None
        structs = vm.structs
        self._field, self._type = structs.field, structs.type_of
        name, method = structs.field("CodeBlob::_name"), structs.field("nmethod::_method", "CompiledMethod::_method")
        compile_id = structs.field("nmethod::_compile_id")
        if name is None or method is None or compile_id is None:
            raise UnreadableError("reading compiled Java methods failed: the JVM does not describe them")
        self._name, self._method, self._compile_id = name, method, compile_id
        self._size = structs.field("CodeBlob::_size")
        self._code_begin = structs.field("CodeBlob::_code_begin")
        self._code_offset = structs.field("CodeBlob::_code_offset")
        is_described = structs.size("PcDesc") == 4 * _PC_DESC_INTS and structs.field("PcDesc::_pc_offset") == 0
        self._has_pc_descs = is_described and structs.field("PcDesc::_scope_decode_offset") == 4
        self._parts: OrderedDict[tuple[int, int], _Parts] = OrderedDict()

    def kind(self, blob: int) -> str:
        """What a blob calls itself: ``nmethod``, ``native nmethod``, or the name of a stub.

        Raises:
            UnreadableError: It cannot be read.
        """
        return self._memory.cstr(self._memory.u64(blob + self._name), 128)

    def size(self, blob: int) -> int | None:
        """Bytes of a blob, None where the JVM does not say; raises as ``kind``."""
        return None if self._size is None else self._memory.i32(blob + self._size)

    def compile_id(self, blob: int) -> int:
        """Number of the compilation that made an nmethod, never given twice; raises as ``kind``."""
        return self._memory.u32(blob + self._compile_id)

    def method(self, blob: int) -> int:
        """The method that was compiled; raises as ``kind``."""
        return self._memory.u64(blob + self._method)

    def scopes(self, blob: int, offset: int) -> list[Scope]:
        """The methods at a place of compiled code, innermost first.

        Args:
            blob: The nmethod.
            offset: Of a return address, from the blob's start.

        Returns:
            Empty where nothing is recorded of this place: only calls and safepoints have a record.

        Raises:
            UnreadableError: The nmethod cannot be read, or is damaged.
        """
        if not self._has_pc_descs:
            return []
        parts = self._parts_of(blob)
        wanted = blob + offset - parts.code
        index = bisect_left(parts.pc_offsets, wanted)
        if index >= len(parts.pc_offsets) or parts.pc_offsets[index] != wanted:
            return []
        start = parts.scope_offsets[index]
        if not start:
            return []
        outermost = self.method(blob)
        readings = self._readings(parts, start, outermost)
        excluded = self._settled_code()
        if excluded is None and len(readings) == 1:
            excluded = next(iter(readings))
        if excluded not in readings:
            raise UnreadableError(f"reading the scopes of compiled code at {blob:#x} failed: they make no sense")
        return readings[excluded]

    def _readings(self, parts: _Parts, start: int, outermost: int) -> dict[int, list[Scope]]:
        """What a chain of scopes says in each code in which it makes sense: it ends in the method that was compiled.

        Where one method is inlined into another, the older code often makes sense in the newer one too: a caller at
        offset 1 is then read as none, the second method as the first.
        """
        readings = {}
        for excluded in CODES:
            try:
                scopes = self._chain(parts, start, excluded)
            except UnreadableError:
                continue
            if scopes[-1].method == outermost:
                readings[excluded] = scopes
        return readings

    def _settled_code(self) -> int | None:
        """The code of this JVM's packed numbers, by the chains that make sense in only one; None without any."""
        if self._code is None:
            votes: Counter[int] = Counter()
            for blob in islice(self._code_cache.blobs(self._memory), _MAX_SAMPLED):
                with suppress(UnreadableError):
                    votes.update(self._votes(blob))
                if votes.total() >= _ENOUGH_VOTES:
                    self._code = votes.most_common(1)[0][0]
                    break
            return votes.most_common(1)[0][0] if votes else None
        return self._code

    def _votes(self, blob: int) -> Iterator[int]:
        if self.kind(blob) != NMETHOD:
            return
        parts, outermost = self._parts_of(blob), self.method(blob)
        for start in set(parts.scope_offsets[:_MAX_SAMPLED_SCOPES]) - {0}:
            readings = self._readings(parts, start, outermost)
            if len(readings) == 1:
                yield next(iter(readings))

    def return_offsets(self, blob: int) -> list[int]:
        """Offsets of all the places that have a record, from the blob's start; raises as ``scopes``."""
        if not self._has_pc_descs:
            return []
        parts = self._parts_of(blob)
        size = self._memory.i32(blob + self._size) if self._size is not None else _MAX_PART_BYTES
        # The first and the last entry only mark the ends.
        places = (parts.code + pc_offset - blob for pc_offset in parts.pc_offsets if pc_offset >= 0)
        return [offset for offset in places if offset <= size]

    def _chain(self, parts: _Parts, place: int, excluded: int) -> list[Scope]:
        scopes = []
        for _ in range(MAX_INLINED):
            sender, after = read_unsigned5(parts.scopes, place, excluded)
            method, after = read_unsigned5(parts.scopes, after, excluded)
            bci, _ = read_unsigned5(parts.scopes, after, excluded)
            if not 0 < method <= _MAX_METADATA:
                raise UnreadableError("reading a scope failed: it has no method")
            scopes.append(Scope(self._memory.u64(parts.metadata + _WORD_BYTES * (method - 1)), bci - 1))
            if not sender:
                return scopes
            if sender >= place:  # a caller's scope is always written first
                break
            place = sender
        raise UnreadableError("reading a scope failed: its callers do not end")

    def _parts_of(self, blob: int) -> _Parts:
        key = (blob, self.compile_id(blob))
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = self._read_parts(blob)
            if len(self._parts) > _KNOWN_PARTS:
                self._parts.popitem(last=False)
        return parts

    def _read_parts(self, blob: int) -> _Parts:
        pcs, pcs_end, scopes, scopes_end = self._places(blob)
        n_pc_bytes = (pcs_end - pcs) // (4 * _PC_DESC_INTS) * 4 * _PC_DESC_INTS
        if not 0 <= n_pc_bytes <= _MAX_PART_BYTES or not 0 <= scopes_end - scopes <= _MAX_PART_BYTES:
            raise UnreadableError(f"reading compiled code at {blob:#x} failed: impossible sizes")
        table = array.array("i", self._memory.read(pcs, n_pc_bytes))
        data = self._memory.read(scopes, scopes_end - scopes)
        return _Parts(
            self._code_start(blob), table[0::_PC_DESC_INTS], table[1::_PC_DESC_INTS], data, self._metadata(blob)
        )

    def _code_start(self, blob: int) -> int:
        if self._code_begin is not None:
            return self._memory.u64(blob + self._code_begin)
        return blob + self._int(blob, "CodeBlob::_code_offset")

    def _places(self, blob: int) -> tuple[int, int, int, int]:
        """Start and end of the table of places, start and end of the scopes."""
        begin = self._field("CompiledMethod::_scopes_data_begin")
        pcs = self._int(blob, "nmethod::_scopes_pcs_offset")
        if begin is not None:
            # Up to JDK 22: scopes, places and dependencies follow each other in the nmethod itself.
            first = blob + pcs
            return first, blob + self._int(blob, "nmethod::_dependencies_offset"), self._memory.u64(blob + begin), first
        immutable = self._field("nmethod::_immutable_data")
        base = blob if immutable is None else self._memory.u64(blob + immutable)
        scopes = base + self._int(blob, "nmethod::_scopes_data_offset")
        first = base + pcs
        if first < scopes:
            # Since JDK 23: both in memory of their own, the scopes after the places.
            return first, scopes, scopes, base + self._int(blob, "nmethod::_immutable_data_size")
        return first, blob + self._int(blob, "nmethod::_dependencies_offset"), scopes, first

    def _metadata(self, blob: int) -> int:
        """Where the pointers to methods stand that scopes number from 1."""
        offset = self._field("nmethod::_metadata_offset")
        if offset is not None:
            # Since JDK 23 from the start of the data, before from that of the nmethod.
            is_moved = self._field("nmethod::_immutable_data") is not None
            start = blob + self._int(blob, "CodeBlob::_data_offset") if is_moved else blob
            width = 2 if "2" in self._type("nmethod::_metadata_offset") else 4
            return start + int.from_bytes(self._memory.read(blob + offset, width), "little")
        mutable = self._field("CodeBlob::_mutable_data")
        if mutable is None:
            raise UnreadableError("reading compiled Java methods failed: the JVM does not say where metadata is")
        return self._memory.u64(blob + mutable) + self._int(blob, "CodeBlob::_relocation_size")

    def _int(self, blob: int, name: str) -> int:
        offset = self._field(name)
        if offset is None:
            raise UnreadableError(f"reading compiled Java methods failed: the JVM does not say {name}")
        return self._memory.i32(blob + offset)
