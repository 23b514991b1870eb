"""System call wrappers of the C library: how much room each makes on the stack before the call.

Scope: x86-64. Most wrappers make none, and their caller's return address is on top of the stack. A few (glibc's mremap,
musl's mmap and mremap) push registers or subtract first; their prologues are read here. On arm64 the return address of
a wrapper is in the link register.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nativeleak import arch
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.functions import function_symbols
from nativeleak.symbols.source import ElfError

_NAMES: Final = ("mmap", "mremap", "brk", "sbrk", "shmat", "syscall")
_PROLOGUE_BYTES: Final = 32


class Wrapper(NamedTuple):
    """One wrapper with a frame: offsets in the file, bytes from the stack pointer to the return address."""

    start: int
    end: int
    frame_bytes: int


def parse_prologue(code: bytes) -> int:
    """Bytes that a function's first instructions take from the stack: pushes, then a subtraction.

    Source: Intel SDM vol. 2: push r64 is 50+r, with REX.B 41 50+r; sub rsp, imm is 48 83 ec ib or 48 81 ec id;
    endbr64 is f3 0f 1e fa.
    """
    at = 4 if code.startswith(b"\xf3\x0f\x1e\xfa") else 0
    frame_bytes = 0
    while at < len(code):
        if 0x50 <= code[at] <= 0x57:
            at, frame_bytes = at + 1, frame_bytes + 8
        elif code[at] == 0x41 and at + 1 < len(code) and 0x50 <= code[at + 1] <= 0x57:
            at, frame_bytes = at + 2, frame_bytes + 8
        elif code[at : at + 3] == b"\x48\x83\xec" and at + 3 < len(code):
            return frame_bytes + code[at + 3]
        elif code[at : at + 3] == b"\x48\x81\xec" and at + 6 < len(code):
            return frame_bytes + int.from_bytes(code[at + 3 : at + 7], "little")
        else:
            break
    return frame_bytes


def find_wrappers(path: str) -> list[Wrapper]:
    """The wrappers with a frame in a C library; empty where it cannot be read."""
    if not arch.here().decodes:
        return []
    wrappers = []
    try:
        with ElfFile.open(path) as elf, open(path, "rb") as file:
            for symbol in set(function_symbols(elf, _NAMES).values()):
                offset = elf.vaddr_to_offset(symbol.vaddr)
                if offset is None:
                    continue
                file.seek(offset)
                frame_bytes = parse_prologue(file.read(min(symbol.size, _PROLOGUE_BYTES)))
                if frame_bytes:
                    wrappers.append(Wrapper(offset, offset + symbol.size, frame_bytes))
    except (ElfError, OSError):
        return []
    return wrappers
