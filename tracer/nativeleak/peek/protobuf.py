"""Whether bytes are a message of Protocol Buffers: a format without any mark, known only by whether it parses.

Source: the Protocol Buffers encoding guide: fields of a tag (number << 3 | wire type) and a value; writers emit fields
by their numbers.
"""

from __future__ import annotations

import re
from typing import Final

_MIN_FIELDS: Final = 4
_MIN_BYTES: Final = 24
_MAX_FIELDS: Final = 64
_MAX_NUMBER: Final = 2047
_MAX_TEXT: Final = 256
_TEXT: Final = re.compile(rb"[\t\n\r\x20-\x7e]{4,}")
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]")


def is_protobuf(data: bytes, place: int) -> int:
    """Number of fields of the message that begins there; 0 where there is none.

    At least four well-formed fields of at least two numbers, in rising order, at least 24 bytes, a text among them, and
    a tag or a number that is no text: of 64 MiB of random bytes none is taken for a message.
    """
    at, n_fields, last, n_texts, numbers = place, 0, 0, 0, set[int]()
    while n_fields < _MAX_FIELDS:
        tag, after = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not last <= number <= _MAX_NUMBER or not number or after > at + 2:
            break
        end, is_text = _value(data, after, wire)
        if not after < end <= len(data):
            break
        n_texts += is_text
        numbers.add(number)
        last, at, n_fields = number, end, n_fields + 1
    message = data[place:at]
    is_message = n_fields >= _MIN_FIELDS and len(numbers) >= 2 and len(message) >= _MIN_BYTES and n_texts
    return n_fields if is_message and len(_BINARY.findall(message)) >= 3 else 0


def _value(data: bytes, at: int, wire: int) -> tuple[int, bool]:
    """(end of the value, whether it is text); an end of 0 where there is no value."""
    if wire == 0:
        _, after = _varint(data, at)
        return (after if after <= at + 10 else 0), False
    if wire == 1:
        return at + 8, False
    if wire == 5:
        return at + 4, False
    if wire != 2:
        return 0, False
    size, after = _varint(data, at)
    return after + size, _TEXT.fullmatch(data, after, min(len(data), after + min(size, _MAX_TEXT))) is not None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, place behind it); a number of -1 where there is none."""
    value = 0
    for index in range(10):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    return -1, at + 11
