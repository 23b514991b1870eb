"""Whether an x86-64 function can come back into its first instructions, so that a probe there is hit more than once.

Branches are first looked for in the raw bytes, at every position: that finds at least all there are, quickly, and for
nearly every function nothing. What it finds is then held against the disassembled function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

ReadOutside = Callable[[int, int], bytes]
"""``read(distance, n_bytes)``: code at a distance from the function's first instruction; fewer bytes where it ends."""

# Source: Intel SDM vol. 2, appendix A: relative branches and their displacements; ff /4 is the indirect jump.
_NEAR: Final = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]")
_SHORT: Final = re.compile(rb"[\x70-\x7f\xe0-\xe3\xeb]")
_NEAR_CONDITIONAL: Final = re.compile(rb"\x0f[\x80-\x8f](?=(.{4}))", re.DOTALL)
_INDIRECT: Final = re.compile(rb"\xff[\x20-\x24\x26\x27\x60-\x67\xa0-\xa7\xe0-\xe7]")
_COLD_BYTES: Final = 512
"""Looked at behind each branch that leaves the function."""
_COLD_GAP: Final = 4096
_MAX_DISTANCE: Final = 1 << 30
_TABLE_LOOK_BACK: Final = 4

_Line = tuple[int, int, str, str]


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
    lines = _disassemble(code, base)
    decoded_end = lines[-1][0] + lines[-1][1] if lines else base
    if max(suspects) >= decoded_end:
        return True
    return any(0 < target <= last for target in map(_target, lines) if target is not None)


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
    lines = _disassemble(code, 0)
    for place, (_, _, mnemonic, operand) in enumerate(lines):
        if not mnemonic.endswith("jmp") or operand.startswith("0x"):
            continue
        before = lines[max(0, place - _TABLE_LOOK_BACK) : place]
        if mnemonic != "jmp" or "*" in operand or any("*4]" in line[3] or "*8]" in line[3] for line in before):
            return True
    return False


def _target(line: _Line) -> int | None:
    """Where a relative branch goes, None for any other instruction."""
    _, _, mnemonic, operand = line
    is_branch = mnemonic.rpartition(" ")[2].startswith(("j", "call", "loop"))
    if not is_branch or not operand.startswith("0x"):
        return None
    target = int(operand, 16)
    return target - (1 << 64) if target >> 63 else target


def _disassemble(code: bytes, base: int) -> list[_Line]:
    """(distance, length, mnemonic, operands) from the start up to the first bytes that are no instruction."""
    import capstone  # noqa: PLC0415 (77 ms and 13 MB, needed only for a library not seen before)

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [
        (address - (1 << 64) if address >> 63 else address, size, mnemonic, operand)
        for address, size, mnemonic, operand in disassembler.disasm_lite(code, base % (1 << 64))
    ]
