"""Whose code an interpreted frame was in: what tells a method from another that has its addresses later.

Scope: the cookie that the kernel side (``method_cookie`` in bpf/hotspot.bpf.h) puts into an interpreted frame, reckoned
again from the method as it is when the frame gets its name. Classes are unloaded and redefined, and their memory is
used again, often for a class of the same shape: then only the names differ.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PLACE_BITS: Final = 17
NOWHERE: Final = (1 << PLACE_BITS) - 1
"""Place of a frame that is at no bytecode of its method."""
UNKNOWN: Final = 0
"""Cookie of a method of which a part was not in memory."""
ARCHIVED: Final = 1
"""Cookie of all methods from the JVM's archive of classes, whose memory is never used again."""

_TAIL_BYTES: Final = 32
_FACTOR: Final = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd
_ALL: Final = (1 << 64) - 1


class Name(NamedTuple):
    """A Symbol of the JVM.

    Attributes:
        address: Where it lies.
        head: Its first 8 bytes as a number, without its reference count.
        text: Its bytes.
    """

    address: int
    head: int
    text: bytes


def method_cookie(const_method: int, class_name: Name, name: Name) -> int:
    """The cookie of a method that is not from the archive.

    Args:
        const_method: Address of its ConstMethod.
        class_name: Of its class.
        name: Its own.
    """
    value = _with_name(_with_name(const_method, class_name), name) >> PLACE_BITS
    return max(value, ARCHIVED + 1)


def packed(offset: int, cookie: int) -> int:
    """Second word of an interpreted frame.

    Args:
        offset: Of the bytecode from the ConstMethod; anything, where it is at none.
        cookie: Of its method.
    """
    return cookie << PLACE_BITS | (offset if 0 <= offset < NOWHERE else NOWHERE)


def _with_name(value: int, name: Name) -> int:
    tail = name.text[-_TAIL_BYTES:].ljust(_TAIL_BYTES, b"\0")
    words = (int.from_bytes(tail[place : place + 8], "little") for place in range(0, _TAIL_BYTES, 8))
    for word in (name.address, name.head, *words):
        value = _mixed(value, word)
    return value or 1


def _mixed(value: int, word: int) -> int:
    value = (value ^ word) * _FACTOR & _ALL
    return value ^ value >> 32
