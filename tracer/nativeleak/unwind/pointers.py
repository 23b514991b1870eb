"""Encoded pointers of ``.eh_frame`` and ``.eh_frame_hdr`` (DW_EH_PE_*).

Source: LSB Core specification, "DWARF Exception Header Encoding".
"""

from __future__ import annotations

import struct
from typing import Final

from nativeleak.symbols.source import ElfError
from nativeleak.unwind.cfa import WORD_MASK, read_sleb, read_uleb

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
_ULEB, _SLEB = 0x01, 0x09
_PC_RELATIVE, _DATA_RELATIVE, _ALIGNED = 0x10, 0x30, 0x50


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
        at: Where the pointer begins in them.
        encoding: How it is written.
        address: Address of the place ``at``.
        data_base: What DW_EH_PE_datarel counts from, None where that is not known.

    Raises:
        ElfError: The encoding is not one that is used here, or the pointer is cut off.
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
