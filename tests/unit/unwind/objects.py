"""Objects with known CFI, put together byte by byte."""

from __future__ import annotations

import struct

TEXT = 0x1000
TEXT_BYTES = 0x1000
FRAMES = 0x3000

CIE_BODY = bytes.fromhex("01 7a5200 01 78 10 01 1b 0c0708 9001 0000")
"""Version 1, "zR", factors 1 and -8, return address 16, pcrel sdata4; CFA = rsp + 8, return address at CFA - 8."""


def cie(body: bytes = CIE_BODY) -> bytes:
    """A CIE record of ``.eh_frame``."""
    return struct.pack("<II", len(body) + 4, 0) + body


def fde(at: int, start: int, n_bytes: int, code: bytes, *, cie_at: int = 0) -> bytes:
    """An FDE record that stands at ``at`` of the section, for the CIE at ``cie_at``."""
    body = struct.pack("<IiIB", at + 4 - cie_at, start - (FRAMES + at + 8), n_bytes, 0) + code
    return struct.pack("<I", len(body)) + body


def frames(*functions: tuple[int, int, bytes], cie_body: bytes = CIE_BODY) -> bytes:
    """``.eh_frame`` of functions: (start, number of bytes, instructions)."""
    data = cie(cie_body)
    for start, n_bytes, code in functions:
        data += fde(len(data), start, n_bytes, code)
    return data + bytes(4)


def make_object(eh_frame: bytes, text: bytes = b"", *, debug_frame: bytes = b"", flags: int = 0) -> bytes:
    """An x86-64 object: code at ``TEXT``, ``.eh_frame`` at ``FRAMES``, section headers."""
    text = text.ljust(TEXT_BYTES, b"\x90")
    names = b"\0.text\0.eh_frame\0.debug_frame\0.shstrtab\0"
    frames_at = TEXT + TEXT_BYTES
    debug_at = frames_at + len(eh_frame)
    names_at = debug_at + len(debug_frame)
    headers_at = names_at + len(names)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (names.index(b".text"), 1, 6, TEXT, TEXT, TEXT_BYTES, 0, 0, 16, 0),
        (names.index(b".shstrtab"), 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    if eh_frame:
        sections.append((names.index(b".eh_frame"), 1, 2, FRAMES, frames_at, len(eh_frame), 0, 0, 8, 0))
    if debug_frame:
        sections.append((names.index(b".debug_frame"), 1, flags, 0, debug_at, len(debug_frame), 0, 0, 1, 0))
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, headers_at, 0, 64, 56, 1, 64, len(sections), 2
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, TEXT, TEXT, TEXT, TEXT_BYTES, TEXT_BYTES, 0x1000)
    body = (header + load).ljust(TEXT, b"\0") + text + eh_frame + debug_frame + names
    return body + b"".join(struct.pack("<IIQQQQIIQQ", *each) for each in sections)
