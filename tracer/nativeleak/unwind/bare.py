"""Rows for a C library without unwind information: read from its code, instruction by instruction.

Scope: musl, which is built without CFI, as a library and inside a static program. Without rows, stacks through it lose
their callers: strdup, asprintf, fopen, the wrappers of mmap and mremap. The analysis follows the stack pointer and the
place where rbp was saved, along every branch from a function's entry. A function in which one of them is unknown at
some instruction gets no rows, and its callers stay guesses; so does code that is reached through a jump table.

Only objects that define mmap, and have no CFI for it, are read: other code without CFI (hand-written assembly, JIT
compilers, Go) is less predictable.

Source: Intel SDM volume 2, for what instructions do to rsp; psABI for x86-64, 3.2.2, for rbp being saved by callees.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from nativeleak.symbols.elf import SYMBOL_BYTES, ElfFile, SymbolArea
from nativeleak.unwind import rules
from nativeleak.unwind.cfa import Row
from nativeleak.unwind.eh_frame import Fde
from nativeleak.unwind.rows import Piece, Range, arrange

_SIGN: Final = "mmap"
_MAX_STRINGS_BYTES: Final = 16 << 20
_MAX_CODE_BYTES: Final = 4 << 20
"""Limit of all functions together; musl has 0.4 MB, which take half a second."""
_MAX_FUNCTION_BYTES: Final = 64 << 10
"""Limit of one function; musl's longest has 10 KB."""
_MAX_UNNAMED_BYTES: Final = 4 << 10
_MAX_NAME_BYTES: Final = 256
_SYMBOL: Final = struct.Struct("<IBBHQQ")  # Elf64_Sym
_STT_FUNC: Final = 2
_SIGNAL_RETURN: Final = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
"""mov $15, %rax; syscall: musl's __restore_rt (src/signal/x86_64/restore.s), whose first byte is a return address."""

_ENTRY_OFFSET: Final = 24  # of Elf64_Ehdr's e_entry
_ENTRY_BYTES: Final = 32
"""musl's entry (arch/x86_64/crt_arch.h) has 22, the last of them a call."""
_MARKS: Final = (b"\x48\x31\xed", b"\x31\xed")
"""xor %rbp, %rbp in both lengths."""
_MAX_MARK_BYTES: Final = 3

_WORD: Final = 8
_RSP: Final = frozenset(("rsp", "esp", "sp", "spl"))
_RBP: Final = frozenset(("rbp", "ebp", "bp", "bpl"))
_READERS: Final = frozenset(("cmp", "test"))
_EXCHANGES: Final = frozenset(("enter", "xchg", "xadd", "cmpxchg"))
_ENDS: Final = frozenset(("ret", "retf", "ud2", "hlt", "int3", "iretq"))
_FROM_REGISTER: Final = re.compile(r"\[(rsp|rbp)(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_FROM_RIP: Final = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-f]+|\d+)")


class _State(NamedTuple):
    """State before an instruction.

    Attributes:
        depth: Bytes from the stack pointer to the return address; None if unknown, which requires a frame.
        saved: The depth at which the caller's rbp is saved; 0 while it is still in rbp.
        is_framed: rbp points at that place.
        is_root: rbp was set to 0 without being saved: the outermost frame (psABI for x86-64, 3.4.1).
    """

    depth: int | None
    saved: int
    is_framed: bool
    is_root: bool = False


_ENTRY: Final = _State(0, 0, False)

_Line = tuple[int, str, str]
"""(length, mnemonic, operands)"""


class _LostError(Exception):
    """The stack pointer or the caller's rbp is unknown from here on."""


def is_c_library(elf: ElfFile) -> bool:
    """Whether an object may define mmap, by its names alone.

    Raises:
        ElfError: Its symbols cannot be read.
    """
    return bool(_read_names(elf, elf.dynsym or elf.symtab))


def bare_pieces(elf: ElfFile, text: Sequence[Range], pieces: Sequence[Piece]) -> list[Piece]:
    """Rows of a C library's functions; empty if it has unwind information or is no C library.

    Args:
        elf: The object.
        text: Where its code is.
        pieces: Ranges that its unwind information covers, in ascending order.

    Raises:
        ElfError: Its symbols cannot be read.
    """
    functions = list(read_functions(elf))
    starts = [piece[0] for piece in pieces]

    def is_covered(vaddr: int) -> bool:
        at = bisect_right(starts, vaddr) - 1
        return at >= 0 and vaddr < pieces[at][1]

    if not any(name == _SIGN and not is_covered(vaddr) for name, vaddr, _ in functions):
        return []
    # A jump from the middle of a function enters its cold part.
    sizes = {vaddr: size for name, vaddr, size in functions if ".cold" not in name and not is_covered(vaddr)}
    fdes = _Reader(elf, text, sizes, is_covered).read()
    return arrange([*fdes, *_signal_fdes(elf, text)], text)


def entry_pieces(elf: ElfFile, text: Sequence[Range]) -> list[Piece]:
    """Entry of a program that marks its outermost frame; musl's ``_start`` has no CFI to mark it."""
    vaddr = int.from_bytes(elf.source.read(_ENTRY_OFFSET, _WORD), "little")
    offset = elf.vaddr_to_offset(vaddr)
    if not vaddr or offset is None or not elf.source.read(offset, _MAX_MARK_BYTES).startswith(_MARKS):
        return []
    return arrange([(vaddr, vaddr + _ENTRY_BYTES, ((0, _ENTRY_BYTES, rules.ROOT),))], text)


def read_functions(elf: ElfFile) -> Iterator[tuple[str, int, int]]:
    """(name, address, length) of each function; of a library only exported functions."""
    area = elf.dynsym or elf.symtab
    strings = _read_names(elf, area)
    if area is None or not strings:
        return
    table = elf.source.read(area.offset, area.n_symbols * SYMBOL_BYTES)
    for name_at, info, _, section, vaddr, size in _SYMBOL.iter_unpack(table):
        if info & 15 == _STT_FUNC and section and size:
            name, _, _ = strings[name_at : name_at + _MAX_NAME_BYTES].partition(b"\0")
            yield name.decode("utf-8", "replace"), vaddr, size


def _read_names(elf: ElfFile, area: SymbolArea | None) -> bytes:
    """The names of a symbol table; empty if mmap is not among them."""
    if area is None or area.strings_bytes > _MAX_STRINGS_BYTES:
        return b""
    strings = elf.source.read(area.strings_offset, area.strings_bytes)
    return strings if f"{_SIGN}\0".encode() in strings else b""


class _Reader:
    """Reads functions, and unnamed functions that they call or whose address they take.

    Args:
        elf: The object.
        text: Where its code is.
        sizes: Lengths of the named functions by address.
        is_covered: Whether unwind information covers an address.
    """

    def __init__(
        self, elf: ElfFile, text: Sequence[Range], sizes: Mapping[int, int], is_covered: Callable[[int], bool]
    ) -> None:
        self._elf = elf
        self._text = text
        self._sizes = sizes
        self._is_covered = is_covered
        self._starts = sorted(sizes)
        self._todo = list(sizes.items())
        self._seen = set(sizes)

    def read(self) -> list[Fde]:
        """Read all functions whose code can be followed; a limit bounds the work."""
        fdes = []
        n_bytes = 0
        while self._todo and n_bytes < _MAX_CODE_BYTES:
            vaddr, size = self._todo.pop()
            offset = self._elf.vaddr_to_offset(vaddr)
            if offset is None or size > _MAX_FUNCTION_BYTES:
                continue
            n_bytes += size
            lines = disassemble(self._elf.source.read(offset, size))
            rows = rows_of(lines, size)
            if rows:
                fdes.append((vaddr, vaddr + size, rows))
            for target in _addresses_in(lines, vaddr):
                self._take(target)
        return fdes

    def _take(self, vaddr: int) -> None:
        """Read this address too, if a function may begin there."""
        if vaddr in self._seen or self._is_covered(vaddr):
            return
        end = next((end for start, end in self._text if start <= vaddr < end), vaddr)
        place = bisect_right(self._starts, vaddr)
        if place and vaddr < self._starts[place - 1] + self._sizes[self._starts[place - 1]]:
            return
        if place < len(self._starts):
            end = min(end, self._starts[place])
        if vaddr < end:
            self._seen.add(vaddr)
            self._todo.append((vaddr, min(end - vaddr, _MAX_UNNAMED_BYTES)))


def _addresses_in(lines: Mapping[int, _Line], vaddr: int) -> Iterator[int]:
    """Where calls go, and the addresses that are taken of anything."""
    for at, (size, mnemonic, operands) in lines.items():
        if mnemonic == "call" and _NUMBER.fullmatch(operands):
            yield (vaddr + int(operands, 0)) % (1 << 64)
        elif mnemonic == "lea":
            place = _FROM_RIP.search(operands)
            if place is not None:
                yield (vaddr + at + size + int(f"{place[1]}{place[2]}", 0)) % (1 << 64)


def _signal_fdes(elf: ElfFile, text: Sequence[Range]) -> Iterator[Fde]:
    """Row of the code that signal handlers return to, from one byte before, as the walk looks it up."""
    for start, end in text:
        offset = elf.vaddr_to_offset(start)
        code = elf.source.read(offset, min(end - start, _MAX_CODE_BYTES)) if offset is not None else b""
        at = code.find(_SIGNAL_RETURN)
        while at >= 0:
            n_bytes = 1 + len(_SIGNAL_RETURN)
            yield start + at - 1, start + at - 1 + n_bytes, ((0, n_bytes, rules.SIGNAL),)
            at = code.find(_SIGNAL_RETURN, at + 1)


def rows_of(lines: Mapping[int, _Line], size: int) -> tuple[Row, ...]:
    """The rows of one function, from its first byte to its last; empty if its state is unknown somewhere.

    Args:
        lines: Its instructions.
        size: Its length, bytes.
    """
    try:
        states = _follow(lines)
    except _LostError:
        return ()
    made: list[Row] = []
    reached = 0
    for at, (n_bytes, _, _) in lines.items():
        word = _rule(states[at]) if at in states else rules.NONE
        if made and made[-1][2] == word:
            made[-1] = (made[-1][0], at + n_bytes, word)
        else:
            made.append((at, at + n_bytes, word))
        reached = at + n_bytes
    if reached < size:
        made.append((reached, size, rules.NONE))
    return tuple(made)


def disassemble(code: bytes) -> dict[int, _Line]:
    """The instructions by offset, up to the first bytes that are no instruction."""
    import capstone  # 50 to 75 ms and 10 MB, in the child process that makes this table

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return {
        at: (size, mnemonic.rpartition(" ")[2], operands)
        for at, size, mnemonic, operands in disassembler.disasm_lite(code, 0)
    }


def _follow(lines: Mapping[int, _Line]) -> dict[int, _State]:
    """The state before each instruction that can be reached from the first.

    Raises:
        _LostError: The state of one is unknown, or depends on the path to it.
    """
    end = max((at + line[0] for at, line in lines.items()), default=0)
    states: dict[int, _State] = {}
    todo = [(0, _ENTRY)]
    while todo:
        at, state = todo.pop()
        while at in lines:
            if at in states:
                if states[at] != state:
                    raise _LostError
                break
            states[at] = state
            size, mnemonic, operands = lines[at]
            if mnemonic in _ENDS:
                break
            if mnemonic.startswith(("j", "loop")):
                if _NUMBER.fullmatch(operands):
                    target = int(operands, 0)
                    if 0 <= target < end and target not in lines:
                        raise _LostError
                    todo.append((target, state))
                if mnemonic == "jmp":
                    break
            else:
                state = _after(state, mnemonic, operands)
            at += size
    return states


def _after(state: _State, mnemonic: str, operands: str) -> _State:
    """The state after an instruction that goes on to the next.

    Raises:
        _LostError: The instruction changes rsp or rbp in a way that is not followed.
    """
    target, _, source = operands.partition(", ")
    if mnemonic in _READERS or state.is_root:
        return state
    if mnemonic in ("push", "pushfq"):
        return _pushed(state, target)
    if mnemonic in ("pop", "popfq"):
        return _popped(state, target)
    if mnemonic == "leave":
        if not state.is_framed:
            raise _LostError
        return _State(state.saved - _WORD, 0, False)
    if mnemonic in _EXCHANGES and {target, source} & (_RSP | _RBP):
        raise _LostError
    if target in _RSP:
        return _with_rsp(state, mnemonic, source)
    if target in _RBP:
        return _with_rbp(state, mnemonic, source)
    return state


def _pushed(state: _State, register: str) -> _State:
    state = _moved(state, _WORD)
    if register == "rbp" and not state.saved and state.depth is not None:
        return state._replace(saved=state.depth)
    return state


def _popped(state: _State, register: str) -> _State:
    if register in _RSP or (register in _RBP and (not state.saved or state.depth != state.saved)):
        raise _LostError
    if register in _RBP:
        state = state._replace(saved=0, is_framed=False)
    return _moved(state, -_WORD)


def _with_rbp(state: _State, mnemonic: str, source: str) -> _State:
    """The state after an instruction whose first operand is rbp."""
    if not state.saved and mnemonic == "xor" and source in _RBP:
        return state._replace(is_root=True)
    if not state.saved or state.is_framed:
        raise _LostError
    is_frame = mnemonic == "mov" and source == "rsp" and state.depth == state.saved
    return state._replace(is_framed=is_frame)


def _with_rsp(state: _State, mnemonic: str, source: str) -> _State:
    """The state after an instruction whose first operand is rsp."""
    if mnemonic in ("sub", "add") and _NUMBER.fullmatch(source):
        return _moved(state, int(source, 0) * (1 if mnemonic == "sub" else -1))
    place = _FROM_REGISTER.fullmatch(source) if mnemonic == "lea" else None
    if place is not None:
        offset = int(f"{place[2] or '+'}{place[3] or '0'}", 0)
        if place[1] == "rsp":
            return _moved(state, -offset)
        if state.is_framed:
            return _at_depth(state, state.saved - offset)
    if not state.is_framed:
        raise _LostError
    return state._replace(depth=None)


def _moved(state: _State, n_bytes: int) -> _State:
    return state if state.depth is None else _at_depth(state, state.depth + n_bytes)


def _at_depth(state: _State, depth: int) -> _State:
    # What is above the stack pointer is lost; a function that takes its return address off the stack is no common one.
    if depth < state.saved:
        raise _LostError
    return _State(depth, state.saved, state.is_framed, state.is_root)


def _rule(state: _State) -> int:
    if state.is_root:
        return rules.ROOT
    fp_rule, fp_off = (rules.FP_AT_CFA, -_WORD - state.saved) if state.saved else (rules.FP_SAME, 0)
    if state.depth is None:
        return rules.pack_rule(rules.KIND_FP, _WORD + state.saved, fp_rule, fp_off)
    return rules.pack_rule(rules.KIND_SP, _WORD + state.depth, fp_rule, fp_off)
