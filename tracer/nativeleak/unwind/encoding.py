"""Numbers in DWARF's formats, and the encoded pointers of ``.eh_frame`` and ``.eh_frame_hdr`` (DW_EH_PE_*).

Source: DWARF 5, section 7.6; LSB Core specification, "DWARF Exception Header Encoding".
"""

from __future__ import annotations

import struct
from typing import Final

from nativeleak.symbols.source import ElfError

WORD_MASK: Final = (1 << 64) - 1
ABSOLUTE: Final = 0x00
PC_RELATIVE_S4: Final = 0x1B
OMITTED: Final = 0xFF

_FIXED: Final = {
    0x00: struct.Struct("<Q"),
    0x02: struct.Struct("<H"),
    0x03: struct.Struct("<I"),
    0x04: struct.Struct("<Q"),
    0x0A: struct.Struct("<h"),
    0x0B: struct.Struct("<i"),
    0x0C: struct.Struct("<q"),
}
_MAX_LEB_BYTES: Final = 10
_ULEB, _SLEB = 0x01, 0x09
_PC_RELATIVE, _DATA_RELATIVE, _ALIGNED = 0x10, 0x30, 0x50


def read_uleb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the place after it.

    Raises:
        ElfError: It has more than 64 bits.
        IndexError: It reaches beyond the end of ``data``.
    """
    value = shift = 0
    for place in range(at, at + _MAX_LEB_BYTES):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ElfError("a number has more than 64 bits")


def read_sleb(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number and the place after it.

    Raises:
        ElfError: It has more than 64 bits.
        IndexError: It reaches beyond the end of ``data``.
    """
    value, end = read_uleb(data, at)
    n_bits = 7 * (end - at)
    return (value - (1 << n_bits) if value >> n_bits - 1 else value), end


def read_fixed(code: bytes, at: int, n_bytes: int) -> tuple[int, int]:
    """An unsigned number of so many bytes and the place after it.

    Raises:
        ElfError: It is cut off.
    """
    if at + n_bytes > len(code):
        raise ElfError("a number is cut off")
    return int.from_bytes(code[at : at + n_bytes], "little"), at + n_bytes


def read_block(code: bytes, at: int) -> tuple[bytes, int]:
    """A DWARF expression, which begins with its length, and the place after it.

    Raises:
        ElfError: It is cut off.
        IndexError: Its length is.
    """
    size, at = read_uleb(code, at)
    if at + size > len(code):
        raise ElfError("an expression is cut off")
    return code[at : at + size], at + size


def read_value(data: bytes, at: int, encoding: int) -> tuple[int, int]:
    """A number in the format of an encoding, relative to nothing, and the place after it.

    Raises:
        ElfError: The format is not known, or the number is cut off.
    """
    kind = encoding & 0x0F
    try:
        if kind in _FIXED:
            layout = _FIXED[kind]
            return layout.unpack_from(data, at)[0], at + layout.size
        if kind == _ULEB:
            return read_uleb(data, at)
        if kind == _SLEB:
            return read_sleb(data, at)
    except (IndexError, struct.error):
        raise ElfError("a pointer is cut off") from None
    raise ElfError(f"pointer encoding {encoding:#04x} is not known")


def read_pointer(data: bytes, at: int, encoding: int, address: int, data_base: int | None) -> tuple[int, int]:
    """An address and the place after it.

    Args:
        data: The bytes.
        at: Position of the pointer in them.
        encoding: Its encoding.
        address: Address of the place ``at``.
        data_base: Base of DW_EH_PE_datarel; None if unknown.

    Raises:
        ElfError: The encoding is not supported, or the pointer is cut off.
    """
    value, end = read_value(data, at, encoding)
    relation = encoding & 0xF0
    if relation == _PC_RELATIVE:
        value += address
    elif relation == _DATA_RELATIVE and data_base is not None:
        value += data_base
    elif relation != ABSOLUTE:
        raise ElfError(f"pointer encoding {encoding:#04x} is not known")
    return value & WORD_MASK, end


def skip_pointer(data: bytes, at: int, encoding: int, address: int) -> int:
    """The place after a pointer that is not needed, whatever it is relative to.

    Raises:
        ElfError: Its format is not known, or it is cut off.
    """
    if encoding == OMITTED:
        return at
    if encoding & 0x70 == _ALIGNED:
        return at + (-address & 7) + 8
    return read_value(data, at, encoding)[1]
