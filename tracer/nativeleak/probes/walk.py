"""The straight-line beginning of an x86-64 function: which of its instructions could carry a probe.

Everything here is about one pass from the entry; whether code comes back into it is for ``flow`` to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nativeleak.probes.emulation import InstructionClass, classify
from nativeleak.probes.families import CallKind

FREE_KINDS: Final = frozenset({CallKind.FREE, CallKind.DELETE})
"""Calls whose return is not probed."""

# Registers as x86-64 counts them in instructions. Source: Intel SDM vol. 2, table 3-1; arguments: System V ABI.
_RDX, _RSP, _RBP, _RSI, _RDI = 2, 4, 5, 6, 7
ABI_ARGUMENTS: Final = (_RDI, _RSI, _RDX)

_READ_ARGUMENTS: Final[Mapping[CallKind, tuple[int, ...]]] = {
    CallKind.MALLOC: (0,),
    CallKind.CALLOC: (0, 1),
    CallKind.REALLOC: (0, 1),
    CallKind.REALLOCARRAY: (0, 1, 2),
    CallKind.POSIX_MEMALIGN: (0, 2),
    CallKind.ALIGNED_ALLOC: (1,),
    CallKind.FREE: (0,),
    CallKind.DELETE: (0,),
}
"""Which arguments the BPF program reads, counted from 0 (``requested_size`` and ``enter_call`` in ``bpf/alloc.bpf.c``)."""

_MAX_OFFSET: Final = 255
_MAX_PUSHED_BYTES: Final = 255 * 8
_LONGEST_INSTRUCTION: Final = 15

_HARMLESS: Final = frozenset(
    "endbr64 nop mov movabs movzx movsx movsxd lea test cmp xor or and add sub neg not inc dec shl shr sar sal rol ror bsr"
    " bsf lzcnt tzcnt bt mul imul adc sbb cmove cmovne cmova cmovae cmovb cmovbe cmovg cmovge cmovl cmovle cmovs cmovns"
    " sete setne seta setae setb setbe seto setno sets setns setg setge setl setle".split()
)
"""Instructions that do nothing but compute. Any other ends the walk."""
_ONLY_READING: Final = frozenset({"test", "cmp", "bt", "nop", "endbr64"})

_NAMES_BY_WIDTH: Final = (
    "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15",
    "eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d",
    "ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w",
    "al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b",
    "ah ch dh bh",
)
_REGISTERS: Final = {name: n for names in _NAMES_BY_WIDTH for n, name in enumerate(names.split())}
_REGISTERS_64: Final = {name: n for n, name in enumerate(_NAMES_BY_WIDTH[0].split())}


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
    code: bytes, kind: CallKind, emulated: Set[InstructionClass], *, moved_arguments: bool = False
) -> Walk:
    """Walk a function from its entry.

    Args:
        code: The function; what is cut off at its end is not looked at.
        kind: Which arguments must be there; functions that free may have pushed something.
        emulated: What makes a candidate.
        moved_arguments: An argument may have been copied to another register, and its own one overwritten.
    """
    walk, is_free = Walk(), kind in FREE_KINDS
    wanted = _READ_ARGUMENTS[kind]
    state = _State([{register} for register in ABI_ARGUMENTS])
    for instruction in _decode(code[: _MAX_OFFSET + _LONGEST_INSTRUCTION]):
        if instruction.address > _MAX_OFFSET:
            break
        walk.entry = walk.entry or f"{instruction.mnemonic} {instruction.op_str}".strip()
        arguments = _locate(state, wanted, moved_arguments=moved_arguments)
        if arguments is None or (state.pushed_bytes and not is_free):
            break
        found = classify(bytes(instruction.bytes))
        if found in emulated:
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
    places = list(ABI_ARGUMENTS)
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
        return operands[0].size == 8 and state.pushed_bytes <= _MAX_PUSHED_BYTES
    if mnemonic == "sub" and instruction.op_str.startswith("rsp, 0x"):
        state.flags_test_null = False
        state.pushed_bytes += int(operands[1].imm)
        return 0 <= operands[1].imm <= _MAX_PUSHED_BYTES >= state.pushed_bytes and state.pushed_bytes % 8 == 0
    if mnemonic not in _HARMLESS:
        return False
    written = _written(instruction)
    if written is None or not written.isdisjoint((_RSP, _RBP)):
        return False
    if _writes_flags(instruction):
        names = [name.strip() for name in instruction.op_str.split(",")]
        state.flags_test_null = (
            mnemonic == "test" and names[0] == names[1] and _REGISTERS_64.get(names[0], -1) in state.holders[0]
        )
    _move(state, instruction, written)
    return True


def _move(state: _State, instruction: Any, written: set[int]) -> None:
    """Forget what is overwritten; a whole register copied to another holds what that one held."""
    names = [name.strip() for name in instruction.op_str.split(",")]
    is_copy = instruction.mnemonic == "mov" and len(names) == 2 and set(names) <= _REGISTERS_64.keys()
    for holders in state.holders:
        is_held = is_copy and _REGISTERS_64[names[1]] in holders
        holders -= written
        if is_held:
            holders.add(_REGISTERS_64[names[0]])


def _written(instruction: Any) -> set[int] | None:
    """The general registers that it writes; None where it may write memory.

    The first operand counts as written whatever the disassembler's tables say, but for the few that only read.
    """
    from capstone import CS_AC_WRITE  # noqa: PLC0415 (see _decode)
    from capstone.x86 import X86_OP_MEM, X86_OP_REG  # noqa: PLC0415

    written = {_REGISTERS.get(instruction.reg_name(register), -1) for register in instruction.regs_access()[1]}
    only_reads = instruction.mnemonic in _ONLY_READING
    for place, operand in enumerate(instruction.operands):
        is_target = (place == 0 and not only_reads) or (operand.access & CS_AC_WRITE and not only_reads)
        if is_target and operand.type == X86_OP_MEM:
            return None
        if is_target and operand.type == X86_OP_REG:
            written.add(_REGISTERS.get(instruction.reg_name(operand.reg), -1))
    return written - {-1}


def _writes_flags(instruction: Any) -> bool:
    from capstone.x86 import X86_REG_EFLAGS  # noqa: PLC0415 (see _decode)

    return X86_REG_EFLAGS in instruction.regs_access()[1] or instruction.mnemonic in ("test", "cmp")


def _decode(code: bytes) -> Iterator[Any]:
    """Instructions with their operands, up to the first bytes that are none."""
    import capstone  # noqa: PLC0415 (77 ms and 13 MB, needed only for a library not seen before)

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    yield from disassembler.disasm(code, 0)
