"""Encodes Protocol Buffers messages: only what the exports need, numbers and nested bytes, in fields 1 to 127.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_WORD: Final = 1 << 64
_SMALL: Final = tuple(bytes((n,)) for n in range(0x80))
_VARINT: Final = 0
_BYTES: Final = 2


def varint(number: int) -> bytes:
    """A number of at most 64 bits; a negative one takes ten bytes, as int64 has it.

    Raises:
        ValueError: The number needs more than 64 bits.
    """
    if 0 <= number < 0x80:
        return _SMALL[number]
    if not -_WORD // 2 <= number < _WORD:
        raise ValueError(f"{number} does not fit into 64 bits")
    number %= _WORD
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_TAGS: Final = tuple(map(varint, range(0x400)))


def number_field(field: int, number: int) -> bytes:
    """A field that holds a number; nothing for 0, which is the default of every number."""
    return _TAGS[field << 3 | _VARINT] + varint(number) if number else b""


def kept_number_field(field: int, number: int) -> bytes:
    """A field that holds a number, 0 included: for fields whose absence means something else."""
    return _TAGS[field << 3 | _VARINT] + varint(number)


def bytes_field(field: int, data: bytes) -> bytes:
    """A field that holds text, a nested message or packed numbers."""
    return _TAGS[field << 3 | _BYTES] + varint(len(data)) + data


def packed_field(field: int, numbers: Iterable[int]) -> bytes:
    """A repeated field of numbers, zeros included."""
    return bytes_field(field, b"".join(map(varint, numbers)))
