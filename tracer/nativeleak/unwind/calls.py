"""Call-site tables: only rows that a walk along return addresses looks up.

Such a walk looks up ``return address - 1``, the last byte of a call, and for a system call the last byte of
``syscall``; at the allocator's entry the walk begins with the return address. A row without such a byte is never used
and is left out: its range joins the row before. That makes tables 7 to 47 times smaller.

Scope: the bytes alone decide whether a call may end there, without disassembling. This finds too many calls (in data,
in the middle of instructions), each of which costs only a row. Rows change on instruction boundaries only, so that a
call lies in one row from its opcode to its end; prefixes (REX, notrack, addr32) need not be looked at.

Source: Intel SDM volume 2, CALL (E8 cd, FF /2), SYSCALL (0F 05), tables 2-2 and 2-3 for the length of FF /2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from nativeleak.symbols.elf import ElfFile
from nativeleak.unwind import rules
from nativeleak.unwind.rows import Piece, Range, RowList

MIN_GAP_BYTES: Final = 16
"""Shorter gaps are padding between functions: compilers align to 16."""

MIN_MARK_BYTES: Final = 2
"""Length of the shortest call."""
_WINDOW_BYTES: Final = 1 << 20
_NEAR_CALL: Final = 0xE8
_NEAR_CALL_BYTES: Final = 5
_INDIRECT: Final = 0xFF
_SYSCALL_END: Final = 0x05
_SYSCALL: Final = b"\x0f\x05"
_MAX_MARK_BYTES: Final = 7
_ON_CODE: Final = b"\x48\x89\xdc"
"""mov %rbx, %rsp: how __start_context begins, glibc's makecontext trampoline. Its first byte is a return address."""

# FF /2 with all its bytes: register or plain memory; disp8, or a SIB byte; SIB and disp8; disp32; SIB and disp32. A SIB
# byte that is followed by disp32 (base 5) is taken for one that is not: that finds no less.
_INDIRECT_CALL: Final = re.compile(
    rb"\xff(?:[\x10-\x13\x16\x17\xd0-\xd7]|[\x14\x50-\x53\x55-\x57].|\x54..|[\x15\x90-\x93\x95-\x97].{4}|\x94.{5})",
    re.DOTALL,
)

_ALWAYS_KEPT: Final = (rules.SIGNAL, rules.ROOT)


class CallFinder:
    """Finds ranges of an object's text in which a call or system call may end.

    For ascending addresses it reads the text once, one window at a time.

    Args:
        elf: The object; its file must stay open.
        text: Where its code is.
    """

    def __init__(self, elf: ElfFile, text: Sequence[Range]) -> None:
        self._elf = elf
        self._text = text
        self._low, self._high = (text[0][0], text[-1][1]) if text else (0, 0)
        self._data = b""
        self._start = self._end = 0

    def window(self, start: int, end: int) -> tuple[bytes, int]:
        """Code around a range, and its address; only the beginning of a range that is too long.

        Raises:
            ElfError: The file was truncated.
        """
        if not self._start <= start <= end <= self._end:
            self._load(start)
        return self._data, self._start

    def any_in(self, start: int, end: int) -> bool:
        """Whether a call may lie in a range of any length, from its opcode to its end.

        Raises:
            ElfError: The file was truncated.
        """
        while True:
            data, at = self.window(start, end)
            reached = at + len(data)
            if self.is_in(data[start - at : end - at], start):
                return True
            if end <= reached or reached - start <= _MAX_MARK_BYTES:  # all of it, or all that the segment has
                return False
            start = reached - _MAX_MARK_BYTES

    def is_in(self, code: bytes, start: int) -> bool:
        """Whether a call may lie in these bytes.

        Args:
            code: The bytes.
            start: Their address.
        """
        at = code.find(_NEAR_CALL)
        while 0 <= at <= len(code) - _NEAR_CALL_BYTES:
            after = at + _NEAR_CALL_BYTES
            target = start + after + int.from_bytes(code[at + 1 : after], "little", signed=True)
            if self._low <= target < self._high:
                return True
            at = code.find(_NEAR_CALL, at + 1)
        return _INDIRECT_CALL.search(code) is not None or _SYSCALL in code

    def _load(self, start: int) -> None:
        """Move the window so that it begins at an address."""
        self._data, self._start, self._end = b"", start, start
        offset = self._elf.vaddr_to_offset(start)
        for text_start, text_end in self._text:
            if text_start <= start < text_end and offset is not None:
                self._data = self._elf.source.read(offset, min(_WINDOW_BYTES, text_end - start))
                self._end = start + len(self._data)


def call_site_rows(pieces: Iterable[Piece], text: Sequence[Range], finder: CallFinder) -> RowList:
    """The rows that a walk can look up.

    These are rows with a call; signal frames and roots, which no call reaches; and the gaps before them.

    Args:
        pieces: The functions; rows of less than ``MIN_MARK_BYTES`` may be missing, but for signal frames and roots.
        text: Where code is.
        finder: Finds calls.

    Raises:
        ElfError: The file was truncated.
    """
    made = RowList()
    reached = text[0][0] if text else 0
    for piece in pieces:
        start = piece[0]
        if reached < start and made.last != rules.NONE and _is_gap_kept(finder, text, reached, piece):
            made.put(reached, rules.NONE)
        _put_calls(made, piece, finder)
        reached = piece[1]
    if text and text[-1][1] - reached >= MIN_GAP_BYTES and finder.any_in(reached, text[-1][1]):
        made.put(reached, rules.NONE)
    return made


def _put_calls(made: RowList, piece: Piece, finder: CallFinder) -> None:
    """Append the rows of one function in which a call may lie."""
    start, end, base, rows = piece
    data, at = finder.window(start, end)
    is_whole = end <= at + len(data)
    last = made.last
    for row_start, row_end, word in rows:
        if word == last:
            continue  # kept or not, the same rule goes on
        low, high = base + row_start, base + row_end
        if high > end:
            high = end
        if low < start:
            low = start
        if low >= high:
            continue
        if is_whole:
            # Nearly all rows end here. "int in bytes" is by far the cheapest test there is.
            code = data[low - at : high - at]
            is_kept = (_NEAR_CALL in code or _INDIRECT in code or _SYSCALL_END in code) and finder.is_in(code, low)
        else:
            is_kept = finder.any_in(low, high)
        if is_kept or word in _ALWAYS_KEPT:
            made.put(low, word)
            last = word


def _is_gap_kept(finder: CallFinder, text: Sequence[Range], start: int, piece: Piece) -> bool:
    """Whether the gap from ``start`` to a function needs a row."""
    end = piece[0]
    if end - start >= MIN_GAP_BYTES and finder.any_in(start, end):
        return True
    if piece[3][0][2] == rules.ROOT:
        return True
    data, at = finder.window(end, piece[1])
    if data[end - at : end - at + len(_ON_CODE)] == _ON_CODE:
        return True
    return len(text) > 1 and any(start < text_start <= end for text_start, _ in text)
