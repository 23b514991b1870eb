"""Does a function pass its calls on to another one? A function around an allocator is none itself.

Scope: direct calls and jumps in the machine code, and those by way of the procedure linkage table or the global offset
table; calls of calls up to a depth. The code is not decoded: a call's code and the right address in the next four
bytes are no coincidence. x86-64; on other machines no call is found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from nativeleak.arch import X86_64
from nativeleak.probes.image import Callee, Image

_MAX_BYTES: Final = 4096
_UNSIZED_BYTES: Final = 256
_MAX_FUNCTIONS: Final = 64
_STUB_BYTES: Final = 16
_CALL, _JUMP = 0xE8, 0xE9
_RETURN: Final = 0xC3
_ALIGNMENT: Final = 16
_PADDING: Final = bytes.fromhex("66 2e 0f 1f 84 00 90 40 44 80 cc")
"""Bytes of the long forms of nop, and int3."""
_INDIRECT: Final = 0xFF
_BY_POINTER: Final = (2, 4)  # reg of ModRM: call, jmp
_CALL_SLOT, _JUMP_SLOT = 0x15, 0x25  # ModRM of call and jmp through [rip + displacement]


class Calls(NamedTuple):
    """What a function calls.

    Attributes:
        reaches: It calls one of the functions asked for.
        is_open: It calls by a pointer whose value is not in the file.
    """

    reaches: bool
    is_open: bool


def find_calls(image: Image, vaddr: int, size: int, names: Collection[str], depth: int = 1) -> Calls:
    """Whether a function calls one of some others.

    Args:
        image: Its object.
        vaddr: Its address.
        size: Its length in bytes; 0 where it is not known.
        names: The others.
        depth: 1: it itself; 2: what it calls, too.
    """
    if image.elf.machine != X86_64.elf_machine:
        return Calls(reaches=False, is_open=False)
    is_open, seen, level = False, {vaddr}, [(vaddr, size)]
    for _ in range(depth):
        following: list[tuple[int, int]] = []
        for start, n_bytes in level:
            for callee in _callees(image, start, n_bytes):
                if callee is None:
                    is_open = True
                elif (callee.name or image.name_at(callee.vaddr or -1)) in names:
                    return Calls(reaches=True, is_open=is_open)
                elif callee.vaddr is not None and callee.vaddr not in seen and len(seen) < _MAX_FUNCTIONS:
                    seen.add(callee.vaddr)
                    following.append((callee.vaddr, 0))
        level = following
    return Calls(reaches=False, is_open=is_open)


def _callees(image: Image, vaddr: int, size: int) -> Iterator[Callee | None]:
    """Functions that the code of one seems to call or jump to; None for a pointer of unknown value."""
    code = image.read_code(vaddr, min(size or _UNSIZED_BYTES, _MAX_BYTES))
    if not size:
        code = code[: _likely_end(vaddr, code)]
    for at in range(len(code) - 1):
        if code[at] in (_CALL, _JUMP) and at + 5 <= len(code):
            target = vaddr + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
            if not vaddr <= target < vaddr + len(code):
                stub = image.read_code(target, _STUB_BYTES)
                if stub:
                    yield _through_stub(image, target, stub) or Callee(target, "")
        elif code[at] == _INDIRECT and code[at + 1] in (_CALL_SLOT, _JUMP_SLOT):
            yield _in_slot(image, vaddr + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True))
        elif code[at] == _INDIRECT and code[at + 1] >> 3 & 7 in _BY_POINTER:
            yield None


def _likely_end(vaddr: int, code: bytes) -> int:
    """Length of a function by its first return before an aligned address, with padding at most between."""
    at = code.find(_RETURN)
    while at >= 0:
        following = -(-(vaddr + at + 1) // _ALIGNMENT) * _ALIGNMENT - vaddr
        if code[at + 1 : following].strip(_PADDING) == b"":
            return at + 1
        at = code.find(_RETURN, at + 1)
    return len(code)


def _through_stub(image: Image, vaddr: int, stub: bytes) -> Callee | None:
    """The function behind an entry of the procedure linkage table; None where the code is none."""
    at = 4 if stub.startswith(b"\xf3\x0f\x1e\xfa") else 0  # endbr64
    at += stub[at : at + 1] == b"\xf2"  # bnd
    if stub[at : at + 2] != bytes((_INDIRECT, _JUMP_SLOT)):
        return None
    return _in_slot(image, vaddr + at + 6 + int.from_bytes(stub[at + 2 : at + 6], "little", signed=True))


def _in_slot(image: Image, slot: int) -> Callee | None:
    callee = image.callee_in_slot(slot)
    return callee if callee.name or callee.vaddr else None
