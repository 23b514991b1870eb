"""The instructions of BPF that we put together ourselves, as the kernel takes them: 8 bytes each.

Source: Documentation/bpf/standardization/instruction-set.rst; numbers of helpers: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

INSTRUCTION: Final = struct.Struct("<BBhi")
"""Operation, registers (source in the high half), offset, value."""

R0, R1, R2, R3, R6, R7, R8, R9, R10 = 0, 1, 2, 3, 6, 7, 8, 9, 10

ATOMIC_OPERATIONS: Final = (0xC3, 0xDB)
"""Of 32 and of 64 bits; their value says which."""
FETCHING: Final = 0x01
"""In the value of an atomic operation: it gives back what was there."""
LOAD_64: Final = 0x18
PSEUDO_MAP_FD: Final = 1
JUMP_ALWAYS: Final = 0x05

_EXCHANGE: Final = 0xE1
_MOVE, _MOVE_VALUE, _ADD_VALUE = 0xBF, 0xB7, 0x07
_STORE_64, _STORE_32_VALUE = 0x7B, 0x62
_LOAD_FIELD_64, _LOAD_FIELD_32 = 0x79, 0x61
_JUMP_IF_ZERO, _JUMP_UNLESS_EQUAL = 0x15, 0x55
_CALL, _EXIT = 0x85, 0x95


class Helper(IntEnum):
    """Functions of the kernel that programs call."""

    MAP_LOOKUP_ELEM = 1
    TAIL_CALL = 12
    SEQ_WRITE = 127
    GET_CURRENT_TASK_BTF = 158
    GET_ATTACH_COOKIE = 174
    TASK_PT_REGS = 175


def move(to: int, source: int) -> bytes:
    """Register ``to`` = register ``source``."""
    return INSTRUCTION.pack(_MOVE, source << 4 | to, 0, 0)


def set_register(to: int, value: int) -> bytes:
    """A register = a value of 32 bits."""
    return INSTRUCTION.pack(_MOVE_VALUE, to, 0, value)


def set_register_64(to: int, value: int) -> bytes:
    """A register = a value of 64 bits."""
    return _load_64(to, value)


def load_map(to: int, fd: int) -> bytes:
    """A register = the map of a descriptor."""
    return _load_64(PSEUDO_MAP_FD << 4 | to, fd)


def add(to: int, value: int) -> bytes:
    """A register += a value."""
    return INSTRUCTION.pack(_ADD_VALUE, to, 0, value)


def store(base: int, offset: int, source: int) -> bytes:
    """64 bits of a register into memory."""
    return INSTRUCTION.pack(_STORE_64, source << 4 | base, offset, 0)


def store_value(base: int, offset: int, value: int) -> bytes:
    """32 bits into memory."""
    return INSTRUCTION.pack(_STORE_32_VALUE, base, offset, value)


def load(to: int, base: int, offset: int) -> bytes:
    """A register = 64 bits of memory."""
    return INSTRUCTION.pack(_LOAD_FIELD_64, base << 4 | to, offset, 0)


def load_32(to: int, base: int, offset: int) -> bytes:
    """A register = 32 bits of memory."""
    return INSTRUCTION.pack(_LOAD_FIELD_32, base << 4 | to, offset, 0)


def exchange(base: int, offset: int, source: int) -> bytes:
    """64 bits of memory for those of a register, atomically."""
    return INSTRUCTION.pack(ATOMIC_OPERATIONS[1], source << 4 | base, offset, _EXCHANGE)


def skip_if_zero(register: int, skipped: bytes) -> bytes:
    """``skipped``, run unless the register is zero."""
    return INSTRUCTION.pack(_JUMP_IF_ZERO, register, len(skipped) // INSTRUCTION.size, 0) + skipped


def skip_unless_equal(register: int, value: int, skipped: bytes) -> bytes:
    """``skipped``, run only if the register has this value of 32 bits."""
    return INSTRUCTION.pack(_JUMP_UNLESS_EQUAL, register, len(skipped) // INSTRUCTION.size, value) + skipped


def call(helper: Helper) -> bytes:
    """R0 = helper(R1, R2, ...)."""
    return INSTRUCTION.pack(_CALL, 0, 0, helper)


def leave() -> bytes:
    """The end of the program."""
    return INSTRUCTION.pack(_EXIT, 0, 0, 0)


def _load_64(registers: int, value: int) -> bytes:
    low, high = struct.unpack("<ii", struct.pack("<Q", value & (1 << 64) - 1))
    return INSTRUCTION.pack(LOAD_64, registers, 0, low) + INSTRUCTION.pack(0, 0, 0, high)
