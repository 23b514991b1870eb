"""Rows for the call from Go into C: C code runs on a thread's own stack, its caller is on the stack of a goroutine.

Scope: ``runtime.asmcgocall`` of Go for x86-64, and ``runtime.goexit``, which each goroutine seems to be called by. The
first one's own unwind information is that of the goroutine's stack, so a walk from C code would go on into whatever the
thread's stack held before. Two words on the thread's stack say where the goroutine's is: the goroutine, and how far
below the end of its stack the function was called.

Source: Go 1.19, src/runtime/asm_amd64.s, asmcgocall; runtime2.go, g and stack. The places of the two words differ from
release to release: they are read from the instructions after the call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.functions import function_symbols
from nativeleak.unwind import rules
from nativeleak.unwind.rows import Piece, Range, arrange

_NAMES: Final = ("runtime.asmcgocall.abi0", "runtime.asmcgocall")
"""The first since Go 1.17; where it exists the second only jumps to it."""
_ROOTS: Final = ("runtime.goexit.abi0", "runtime.goexit")
_MAX_BYTES: Final = 1024
_SWITCHED: Final = re.compile(
    rb"\x48\x8b(?:\x7c\x24(?P<g>.)|\x3c\x24)"  # mov g(%rsp), %rdi
    rb"\x48\x8b\x77\x08"  # mov 8(%rdi), %rsi: the end of its stack
    rb"\x48\x2b(?:\x74\x24(?P<depth>.)|\x34\x24)",  # sub depth(%rsp), %rsi
    re.DOTALL,
)
_STAYED: Final = re.compile(
    rb"\x48\x8b(?:\x74\x24(?P<depth>.)|\x34\x24)"  # mov depth(%rsp), %rsi
    rb"\x48\x89\xf4",  # mov %rsi, %rsp
    re.DOTALL,
)
_CALLS: Final = (b"\xff\xd0", b"\xe8")
"""call *%rax, and of later releases a call of a landing pad."""
_WORD: Final = 8


def go_pieces(elf: ElfFile, text: Sequence[Range]) -> list[Piece]:
    """Rows for the calls of C code in a program that was made by Go; none in any other.

    Args:
        elf: The object.
        text: Where its code is.

    Raises:
        ElfError: Its symbols cannot be read.
    """
    if elf.section(".gopclntab") is None:
        return []
    found = function_symbols(elf, (*_NAMES, *_ROOTS))
    symbol = next((found[name] for name in _NAMES if name in found), None)
    offset = elf.vaddr_to_offset(symbol.vaddr) if symbol is not None else None
    if symbol is None or offset is None:
        return []
    code = elf.source.read(offset, min(symbol.size, _MAX_BYTES))
    rows = [(symbol.vaddr + start, end - start, word) for start, end, word in calls_of(code)]
    rows += [(found[name].vaddr, found[name].size, rules.ROOT) for name in _ROOTS if name in found]
    return arrange([(vaddr, vaddr + size, ((0, size, word),)) for vaddr, size, word in rows], text)


def calls_of(code: bytes) -> list[tuple[int, int, int]]:
    """(start, end, rule) of each call of C code in ``runtime.asmcgocall``, as offsets into its code.

    With the stack switched, and without it, where the thread was on its own stack already.
    """
    made = []
    depth = None
    for match in _SWITCHED.finditer(code):
        depth, g = _displacement(match["depth"]), _displacement(match["g"])
        call = _call_before(code, match.start())
        if call is not None and g == depth + _WORD:
            made.append((call, match.start(), rules.pack_rule(rules.KIND_GO, depth)))
    for match in _STAYED.finditer(code):
        call = _call_before(code, match.start())
        if call is not None and depth is not None and _displacement(match["depth"]) == depth:
            made.append((call, match.start(), rules.pack_rule(rules.KIND_GO, depth)))
    return made


def _call_before(code: bytes, end: int) -> int | None:
    """Where the call begins that ends there."""
    near, indirect = _CALLS[1], _CALLS[0]
    if code[end - 2 : end] == indirect:
        return end - 2
    return end - 5 if end >= 5 and code[end - 5 : end - 4] == near else None


def _displacement(byte: bytes | None) -> int:
    return byte[0] if byte else 0
