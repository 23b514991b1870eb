"""The straight-line beginning of an allocator function: where in it a probe may go.

The beginning is walked, instruction by instruction. It ends where a branch may leave, where an argument or the frame
pointer is overwritten, where memory is written (a freed block could be in other hands by then), and at whatever is not
known to be harmless.

Scope: x86-64.
Source: Intel SDM vol. 2 for encodings and register numbers.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nativeleak.arch import X86_64
from nativeleak.probes.calls import CallSpec
from nativeleak.probes.decode import decode, writes_flags, written_registers
from nativeleak.probes.emulation import InstructionClass, classify
from nativeleak.probes.registers import RBP, RSP, WHOLE

MAX_OFFSET: Final = 255
"""Bytes from the entry to the last place that is looked at."""
MAX_PUSHED_BYTES: Final = 255 * 8
_LONGEST_INSTRUCTION: Final = 15

_CONDITIONS: Final = ("e", "ne", "a", "ae", "b", "be", "g", "ge", "l", "le", "s", "ns", "o", "no", "p", "np")
_HARMLESS: Final = frozenset(
    {"endbr64", "nop", "mov", "movabs", "movzx", "movsx", "movsxd", "lea", "test", "cmp", "bt", "xor", "or", "and"}
    | {"add", "sub", "neg", "not", "inc", "dec", "shl", "shr", "sar", "sal", "rol", "ror", "bsr", "bsf"}
    | {f"cmov{condition}" for condition in _CONDITIONS}
    | {f"set{condition}" for condition in _CONDITIONS}
)
"""Instructions that do nothing but compute. Any other ends the walk."""
_STACK_ROOM: Final = re.compile(r"rsp, (0x[0-9a-f]+|[0-9])")


class Candidate(NamedTuple):
    """An instruction that the kernel emulates, with the state in which the function comes to it.

    Attributes:
        offset: From the entry, bytes.
        instruction: For people.
        sees_null: A free of NULL comes here.
        pushed_bytes: Taken from the stack before it.
        arguments: Registers of arguments 1 to 3; of those that the call reads.
    """

    offset: int
    instruction: str
    sees_null: bool
    pushed_bytes: int
    arguments: tuple[int, int, int]


@dataclass(slots=True)
class Walk:
    """What the walk found: the first instruction as text, and the candidates in order."""

    entry: str = ""
    candidates: list[Candidate] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    """Registers and stack before an instruction; ``holders`` has for each argument the registers that it is in."""

    holders: list[set[int]]
    pushed_bytes: int = 0
    flags_test_null: bool = False
    behind_null_test: bool = False


def walk_prefix(
    code: bytes, spec: CallSpec, emulated: AbstractSet[InstructionClass], *, moved_arguments: bool = False
) -> Walk:
    """Walk a function from its entry.

    Args:
        code: The function; what is cut off at its end is not looked at.
        spec: Which arguments must be there; functions that free may have pushed something.
        emulated: What makes a candidate.
        moved_arguments: An argument may have been copied to another register, and its own one overwritten.
    """
    walk, is_free = Walk(), spec.frees
    state = _State([{register} for register in X86_64.arguments])
    for instruction in decode(code[: MAX_OFFSET + _LONGEST_INSTRUCTION]):
        if instruction.address > MAX_OFFSET:
            break
        walk.entry = walk.entry or f"{instruction.mnemonic} {instruction.op_str}".strip()
        arguments = _locate(state, spec.reads, moved_arguments=moved_arguments)
        if arguments is None or (state.pushed_bytes and not is_free):
            break
        found = classify(bytes(instruction.bytes))
        if found is not None and found in emulated:
            walk.candidates.append(
                Candidate(
                    instruction.address,
                    found.describe(bytes(instruction.bytes)),
                    not state.behind_null_test,
                    state.pushed_bytes,
                    arguments,
                )
            )
        if not _step(state, instruction, is_free=is_free):
            break
    return walk


def _locate(state: _State, wanted: tuple[int, ...], *, moved_arguments: bool) -> tuple[int, int, int] | None:
    """Where the arguments are, the own register first; None when one is gone."""
    places = list(X86_64.arguments)
    for index in wanted:
        holders = state.holders[index]
        if places[index] in holders:
            continue
        if not moved_arguments or not holders:
            return None
        places[index] = min(holders)
    return places[0], places[1], places[2]


def _step(state: _State, instruction: Any, *, is_free: bool) -> bool:
    """Bring the state behind an instruction; False where the walk ends."""
    mnemonic, operands = instruction.mnemonic, instruction.operands
    if mnemonic == "je" and is_free and state.flags_test_null:
        # Taken with NULL only, of which there is nothing to record.
        state.behind_null_test, state.flags_test_null = True, False
        return True
    if mnemonic == "push":
        state.pushed_bytes += 8
        return operands[0].size == 8 and state.pushed_bytes <= MAX_PUSHED_BYTES
    if mnemonic == "sub" and _STACK_ROOM.fullmatch(instruction.op_str):
        n_bytes = int(operands[1].imm)
        state.flags_test_null = False
        state.pushed_bytes += n_bytes
        return n_bytes > 0 and n_bytes % 8 == 0 and state.pushed_bytes <= MAX_PUSHED_BYTES
    if mnemonic not in _HARMLESS:
        return False
    written = written_registers(instruction)
    if written is None or not written.isdisjoint((RSP, RBP)):
        return False
    if writes_flags(instruction):
        names = [name.strip() for name in instruction.op_str.split(",")]
        state.flags_test_null = (
            mnemonic == "test" and names[0] == names[1] and WHOLE.get(names[0], -1) in state.holders[0]
        )
    _move(state, instruction, written)
    return True


def _move(state: _State, instruction: Any, written: set[int]) -> None:
    """Forget what is overwritten; a whole register copied to another holds what that one held."""
    names = [name.strip() for name in instruction.op_str.split(",")]
    is_copy = instruction.mnemonic == "mov" and len(names) == 2 and set(names) <= WHOLE.keys()
    for holders in state.holders:
        is_held = is_copy and WHOLE[names[1]] in holders
        holders -= written
        if is_held:
            holders.add(WHOLE[names[0]])
