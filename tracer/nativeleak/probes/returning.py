"""Which functions never return: what follows a call to one is no path of its caller.

A function returns when a ``ret`` can be reached from its entry. Some functions end the process for some values of
their first argument (glibc's ``__libc_message``): a constant decides. Where it is not clear, a function counts as
returning: that only adds paths.

Scope: x86-64, System V ABI.
Source: names: C11, POSIX, glibc, Itanium C++ ABI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nativeleak.probes.image import Image
from nativeleak.probes.landing import LandingPads
from nativeleak.probes.registers import BY_NAME, RBP, RBX, RDI

_LIST: Final = """
    abort exit _exit _Exit quick_exit __assert_fail __assert_perror_fail __assert __stack_chk_fail __chk_fail
    __fortify_fail longjmp _longjmp siglongjmp __longjmp_chk pthread_exit __libc_fatal __cxa_throw __cxa_rethrow
    __cxa_bad_cast __cxa_bad_typeid __cxa_throw_bad_array_new_length __cxa_throw_bad_array_length __cxa_call_unexpected
    __cxa_call_terminate __cxa_pure_virtual __cxa_deleted_virtual _Unwind_Resume _ZSt9terminatev _ZSt10unexpectedv
"""
_NAMES: Final = frozenset(_LIST.split())
_THROWS: Final = re.compile(r"_ZSt\d+__throw_\w+")
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")

_MAX_INSTRUCTIONS: Final = 60_000
"""Looked at for one object; jemalloc takes 9,000."""
_MAX_DEPTH: Final = 12
_LONGEST_INSTRUCTION: Final = 15

_RETURNS: Final = frozenset({"ret", "retf", "iretq", "sysret", "sysexit"})
_STOPS: Final = frozenset({"ud2", "ud1", "ud0", "hlt", "int3"})
_KEPT_BY_CALLEES: Final = frozenset({RBX, RBP, 12, 13, 14, 15})
_KEEPS_FLAGS: Final = frozenset({"mov", "lea", "movzx", "push", "pop", "nop"})
_WRITES_FIRST: Final = frozenset({"mov", "lea", "movzx", "movsx", "movsxd", "and", "or", "xor", "add", "sub", "pop"})
_WRITES_NOTHING: Final = frozenset({"push", "test", "cmp", "nop", "endbr64"})

Known = dict[int, int]
"""Registers of which the value is known."""
Callee = Callable[[str, int], tuple[int | None, str]]
"""(operand of a call, address behind it) -> (address in this object, name) of the function called."""


def never_returns(name: str) -> bool:
    """Whether a function of this name never returns."""
    return name in _NAMES or _THROWS.fullmatch(name) is not None


def constant(mnemonic: str, operand: str) -> tuple[int, int] | None:
    """(register, value) where an instruction puts a constant into one, else None."""
    first, _, second = operand.partition(", ")
    register = BY_NAME.get(first)
    if register is None:
        return None
    if mnemonic == "mov" and _NUMBER.fullmatch(second):
        return register, int(second, 0)
    return (register, 0) if mnemonic == "xor" and first == second else None


@dataclass(slots=True)
class _Search:
    """Where to go on in a function: (address, what is known there); behind which calls; what was seen."""

    work: list[tuple[int, Known]]
    calls: list[tuple[int, str, Known]] = field(default_factory=list)
    seen: set[tuple[int, frozenset[tuple[int, int]]]] = field(default_factory=set)


class Returning:
    """What is known of one object's functions.

    Args:
        image: The object.
        disassembler: Without details.
        pads: Where functions end.
        callee: Resolves calls.
    """

    def __init__(self, image: Image, disassembler: Any, pads: LandingPads, callee: Callee) -> None:
        self._image = image
        self._disassembler = disassembler
        self._pads = pads
        self._callee = callee
        self._found: dict[tuple[int, int | None], bool] = {}
        self._decoded: dict[int, tuple[int, int, str, str] | None] = {}
        self._room = _MAX_INSTRUCTIONS

    def may_return(self, vaddr: int | None, name: str, first_argument: int | None, depth: int = 0) -> bool:
        """Whether a call may come back. Yes where that is not known.

        Args:
            vaddr: Of the function called, None where it is another object's.
            name: Its name, as far as it is known.
            first_argument: Where it is a constant.
            depth: Calls on the way to this one.
        """
        if never_returns(name):
            return False
        if vaddr is None or depth > _MAX_DEPTH:
            return True
        key = vaddr, first_argument
        if key not in self._found:
            self._found[key] = True  # of functions that call each other; the other answer would be a guess
            self._found[key] = self._has_return(vaddr, first_argument, depth)
        return self._found[key]

    def _has_return(self, vaddr: int, first_argument: int | None, depth: int) -> bool:
        """Look for a way from a function's entry to a return, those without calls first."""
        search = _Search([(vaddr, {} if first_argument is None else {RDI: first_argument})])
        while search.work or search.calls:
            if search.work:
                at, known = search.work.pop()
                if self._walk(search, at, known):
                    return True
                continue
            end, operand, known = search.calls.pop(0)
            callee, name = self._callee(operand, end)
            if not self._pads.is_end(end) and self.may_return(callee, name, known.get(RDI), depth + 1):
                search.work.append((end, {each: n for each, n in known.items() if each in _KEPT_BY_CALLEES}))
        return False

    def _decode(self, at: int) -> tuple[int, int, str, str] | None:
        """Address, length, mnemonic and operands of an instruction; None where there is none."""
        if at not in self._decoded:
            code = self._image.read_code(at, _LONGEST_INSTRUCTION)
            self._decoded[at] = next(self._disassembler.disasm_lite(code, at, 1), None)
        return self._decoded[at]

    def _walk(self, search: _Search, at: int, known: Known) -> bool:
        """Go on from an address to the next call, jump or return; whether it is a return, or may be one."""
        flags: int | None = None
        while (key := (at, frozenset(known.items()))) not in search.seen:
            search.seen.add(key)
            self._room -= 1
            line = self._decode(at) if self._room >= 0 else None
            if line is None or line[2].rpartition(" ")[2] in _RETURNS:
                return True
            mnemonic, operand, end = line[2].rpartition(" ")[2], line[3], at + line[1]
            if mnemonic in _STOPS:
                return False
            if mnemonic == "call":
                search.calls.append((end, operand, known))
                return False
            if mnemonic == "jmp":
                callee, name = self._callee(operand, end)
                search.work += [(callee, known)] if callee is not None else []
                return callee is None and not never_returns(name)
            at = end
            if mnemonic.startswith(("j", "loop")) and _NUMBER.fullmatch(operand):
                if flags is None or mnemonic not in ("je", "jne"):
                    search.work.append((int(operand, 0), dict(known)))
                elif (flags == 0) == (mnemonic == "je"):
                    at = int(operand, 0)
            known, flags = _step(known, flags, mnemonic, operand)
        return False


def _step(known: Mapping[int, int], flags: int | None, mnemonic: str, operand: str) -> tuple[Known, int | None]:
    """Registers that are known behind an instruction, and the value that the flags tell to be 0 or not."""
    after = dict(known)
    if not known:
        return after, None
    first, _, second = operand.partition(", ")
    register, source = BY_NAME.get(first), BY_NAME.get(second)
    other = int(second, 0) if _NUMBER.fullmatch(second) else known.get(source) if source is not None else None
    value = known.get(register) if register is not None else None
    if mnemonic == "test" and value is not None and other is not None:
        return after, value & other
    if mnemonic in _WRITES_NOTHING:
        return after, flags if mnemonic in _KEEPS_FLAGS else None
    if mnemonic not in _WRITES_FIRST:
        return {each: v for each, v in after.items() if each in _KEPT_BY_CALLEES and each != register}, None
    if register is not None:
        after.pop(register, None)
        if mnemonic == "mov" and other is not None:
            after[register] = other
        elif mnemonic == "and" and other is not None and value is not None:
            after[register] = value & other
    return after, flags if mnemonic in _KEEPS_FLAGS else None
