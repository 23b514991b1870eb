"""x86-64 code as far as placing probes needs it: instructions, what they write, and the ways back into a prefix.

Caveat: code that jumps into the middle of a function from outside of it, other than from its own cold part, is not
looked for.
Source: Intel SDM vol. 2 for encodings and register numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

from nativeleak.arch import X86_64
from nativeleak.probes.registers import BY_NAME

_ONLY_READING: Final = frozenset({"test", "cmp", "bt", "nop", "endbr64"})

ReadOutside = Callable[[int, int], bytes]
"""``read(distance, n_bytes)``: code at a distance from the function's first instruction; fewer bytes where it ends."""

# Source: Intel SDM vol. 2, appendix A: relative branches and their displacements; ff /4 is the indirect jump.
_NEAR: Final = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]")
_SHORT: Final = re.compile(rb"[\x70-\x7f\xe0-\xe3\xeb]")
_NEAR_CONDITIONAL: Final = re.compile(rb"\x0f[\x80-\x8f](?=(.{4}))", re.DOTALL)
_INDIRECT: Final = re.compile(rb"\xff[\x20-\x24\x26\x27\x60-\x67\xa0-\xa7\xe0-\xe7]")
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|[0-9]")
"""As the disassembler writes one: below ten without 0x."""
_COLD_BYTES: Final = 512
"""Looked at behind each branch that leaves the function."""
_COLD_GAP: Final = 4096
_MAX_DISTANCE: Final = 1 << 30
_TABLE_LOOK_BACK: Final = 4

Line = tuple[int, int, str, str]
"""Distance from the function's first instruction, length, mnemonic, operands."""


def _disassembler() -> Any:
    import capstone  # 50 to 75 ms and 10 MB, needed only for a library that is not in the cache

    return capstone.Cs(*(getattr(capstone, name) for name in X86_64.capstone))


def decode(code: bytes) -> Iterator[Any]:
    """Instructions with their operands, up to the first bytes that are none."""
    disassembler = _disassembler()
    disassembler.detail = True
    yield from disassembler.disasm(code, 0)


def written_registers(instruction: Any) -> set[int] | None:
    """The general registers that it writes; None where it may write memory.

    The first operand counts as written whatever the disassembler's tables say, but for the few that only read.
    """
    from capstone import CS_AC_WRITE
    from capstone.x86 import X86_OP_MEM, X86_OP_REG

    written = {BY_NAME.get(instruction.reg_name(register), -1) for register in instruction.regs_access()[1]}
    only_reads = instruction.mnemonic in _ONLY_READING
    for place, operand in enumerate(instruction.operands):
        is_target = not only_reads and (place == 0 or operand.access & CS_AC_WRITE)
        if is_target and operand.type == X86_OP_MEM:
            return None
        if is_target and operand.type == X86_OP_REG:
            written.add(BY_NAME.get(instruction.reg_name(operand.reg), -1))
    return written - {-1}


def writes_flags(instruction: Any) -> bool:
    """Whether it changes the flags that a conditional branch tests."""
    from capstone.x86 import X86_REG_EFLAGS

    return X86_REG_EFLAGS in instruction.regs_access()[1] or instruction.mnemonic in ("test", "cmp")


def reaches_prefix(code: bytes, last: int, read_outside: ReadOutside | None = None) -> bool:
    """Whether a branch in the function, or in its cold part, goes to one of the offsets 1 to ``last``.

    A branch to the entry is none of these: it is a call like any other, for a probe at the entry as for one behind it.
    Where it cannot be told the answer is yes.

    Args:
        code: The whole function.
        last: Offset of the probe.
        read_outside: Without it the cold part is not looked at.
    """
    if _comes_back(code, 0, last) or _has_jump_table(code):
        return True
    if read_outside is None:
        return False
    cold_starts = {target for target in _conditional_targets(code) if not 0 <= target < len(code)}
    return any(_comes_back(cold, start, last) for start, cold in _cold_parts(cold_starts, read_outside))


def _comes_back(code: bytes, base: int, last: int) -> bool:
    """Whether code at ``base`` has a branch to 1..``last``; all distances count from the function's start."""
    suspects = [place for place, target in _possible_branches(code, base) if 0 < target <= last]
    if not suspects:
        return False
    lines = disassemble(code, base)
    decoded_end = lines[-1][0] + lines[-1][1] if lines else base
    if max(suspects) >= decoded_end:
        return True
    return any(0 < target <= last for target in map(branch_target, lines) if target is not None)


def _possible_branches(code: bytes, base: int) -> Iterator[tuple[int, int]]:
    """(where, to where) of every relative branch that the bytes could be, at whatever position one is begun."""
    for pattern, n_bytes in ((_NEAR, 4), (_SHORT, 1)):
        for match in pattern.finditer(code):
            end = match.end() + n_bytes
            displacement = int.from_bytes(code[match.end() : end], "little", signed=True)
            yield base + match.start(), base + end + displacement


def _conditional_targets(code: bytes) -> Iterator[int]:
    for match in _NEAR_CONDITIONAL.finditer(code):
        target = match.end() + 4 + int.from_bytes(match[1], "little", signed=True)
        if abs(target) < _MAX_DISTANCE:
            yield target


def _cold_parts(starts: set[int], read_outside: ReadOutside) -> Iterator[tuple[int, bytes]]:
    """Code behind each of these places, up to where the next one begins; neighbours are read together."""
    groups: list[list[int]] = []
    for start in sorted(starts):
        if groups and start - groups[-1][-1] <= _COLD_GAP:
            groups[-1].append(start)
        else:
            groups.append([start])
    for group in groups:
        code = read_outside(group[0], group[-1] - group[0] + _COLD_BYTES)
        for start, end in pairwise((*group, group[-1] + _COLD_BYTES)):
            yield start, code[start - group[0] : end - group[0]]


def _has_jump_table(code: bytes) -> bool:
    """Whether a jump goes through a table of places in the function: any of them may be meant.

    A jump through a lone pointer leaves the function (the hooks of glibc before 2.34, calls across libraries).
    """
    if not _INDIRECT.search(code):
        return False
    lines = disassemble(code, 0)
    for place, line in enumerate(lines):
        _, _, mnemonic, operand = line
        if not mnemonic.endswith("jmp") or branch_target(line) is not None:
            continue
        before = lines[max(0, place - _TABLE_LOOK_BACK) : place]
        if mnemonic != "jmp" or "*" in operand or any("*4]" in line[3] or "*8]" in line[3] for line in before):
            return True
    return False


def branch_target(line: Line) -> int | None:
    """Where a relative branch goes, None for any other instruction."""
    _, _, mnemonic, operand = line
    is_branch = mnemonic.rpartition(" ")[2].startswith(("j", "call", "loop"))
    if not is_branch or not _NUMBER.fullmatch(operand):
        return None
    target = int(operand, 0)
    return target - (1 << 64) if target >> 63 else target


def disassemble(code: bytes, base: int) -> list[Line]:
    """(distance, length, mnemonic, operands) from the start up to the first bytes that are no instruction."""
    disassembler = _disassembler()
    return [
        (address - (1 << 64) if address >> 63 else address, size, mnemonic, operand)
        for address, size, mnemonic, operand in disassembler.disasm_lite(code, base % (1 << 64))
    ]
