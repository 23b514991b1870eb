"""What a function will return, known before it does: by data flow backwards from every ``ret``.

Two things are worked out for each instruction of a function. Forwards: how many bytes lie between the stack pointer and
the return address. Backwards: the places (registers, words of the frame) of which the value is certain to be what the
caller gets in rax, on every path from there on. A call on the way makes all uncertain, also because what it does would
belong to a call that was already seen to end, but for those that are known to do nothing but fill a block; so does any
instruction that is not known.

Scope: x86-64, System V ABI.
Source: Intel SDM vol. 2 for what instructions write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from nativeleak.probes.flow import RETURNS_FIRST_ARGUMENT, FlowError, Function, Kind, Node
from nativeleak.probes.registers import BY_NAME, N_REGISTERS, RAX, RBP, RBX, RCX, RDI, RDX, RSP, WHOLE

ZERO: Final = N_REGISTERS
"""Stands for a place that always holds 0: where it is among the places, the function returns 0."""

Places = frozenset[int]
"""Registers by number, ``ZERO``, and words of the frame: bytes from the return address, negative."""

_NOWHERE: Final[Places] = frozenset()
_WORD: Final = 8

_CONDITIONS: Final = ("e", "ne", "a", "ae", "b", "be", "g", "ge", "l", "le", "s", "ns", "o", "no", "p", "np")
_READERS: Final = frozenset({"test", "cmp", "bt", "nop", "endbr64", "prefetcht0", "prefetchw", "prefetchnta", "pause"})
_COMPUTERS: Final = """
    mov movabs movzx movsx movsxd lea xor or and add sub adc sbb neg not inc dec shl shr sar sal rol ror bsr bsf tzcnt
    lzcnt popcnt imul bswap btr bts btc andn bextr blsr blsi shlx shrx sarx rorx xchg xadd cmpxchg cmpxchg16b cqo cdq
    cdqe cwde mul div idiv leave movaps movups movdqa movdqu movq movd movhps movlps movapd movupd pxor xorps punpcklqdq
    pinsrq movntdq movnti vmovdqa vmovdqu vmovaps vmovups vmovq vmovd vpxor vxorps vzeroupper sfence lfence mfence
    vmovdqu64 vmovdqa64 vpinsrq vpunpcklqdq movddup unpcklpd punpckldq shufps pshufd vpbroadcastq vinserti128
"""
_COMPUTES: Final = (
    _READERS
    | frozenset(_COMPUTERS.split())
    | {f"cmov{each}" for each in _CONDITIONS}
    | {f"set{each}" for each in _CONDITIONS}
)
"""Instructions that write what their operands and the disassembler's tables say, and nothing else."""
_KEEPS_FLAGS: Final = frozenset({"mov", "lea", "movzx", "movsx", "movsxd", "nop", "push", "pop", "movabs"})
_LOOK_BACK: Final = 6
_MAX_ROUNDS: Final = 64
"""Through all instructions, until nothing changes; allocators take 3 to 5."""
_NOT_KEPT: Final = frozenset(range(N_REGISTERS)) - {RBX, RSP, RBP, 12, 13, 14, 15}
"""Registers that a call may overwrite."""


class Frame(NamedTuple):
    """The stack before an instruction.

    Attributes:
        depth: Bytes from the stack pointer to the return address; None where they are not known.
        rbp: Where rbp points, counted from the return address; None where it is no frame pointer.
    """

    depth: int | None
    rbp: int | None


@dataclass(frozen=True, slots=True)
class Values:
    """What was found about a function.

    Attributes:
        frames: Address of an instruction -> the stack before it.
        places: Address of an instruction -> where the value is that the function will return; those from which no
            return is reached are not in it.
        edges: (branch, where it goes) -> the same on that way alone, where more may be known.
    """

    frames: Mapping[int, Frame]
    places: Mapping[int, Places]
    edges: Mapping[tuple[int, int], Places]


class _Effect(NamedTuple):
    """What an instruction does to places.

    Attributes:
        written: Registers that hold something else afterwards.
        copies: (to, from) of whole words.
        cleared: Places that hold 0 afterwards.
        frame_bytes: (first, end) of the part of the frame that is written, None for none.
        writes_elsewhere: Memory may be written that could be anywhere.
        is_opaque: Nothing is known of it.
    """

    written: frozenset[int] = frozenset()
    copies: tuple[tuple[int, int], ...] = ()
    cleared: frozenset[int] = frozenset()
    frame_bytes: tuple[int, int] | None = None
    writes_elsewhere: bool = False
    is_opaque: bool = False


def find_values(function: Function, *, needs_memory: bool = False) -> Values:
    """Work out the stack and the returned value for a whole function.

    Args:
        function: Its instructions.
        needs_memory: What the function leaves in memory must be there too: a write makes all uncertain.

    Raises:
        FlowError: The stack is not as it was at the entry when the function returns.
    """
    frames = _find_frames(function)
    effects = {vaddr: _effect(node, frames[vaddr]) for vaddr, node in function.nodes.items()}
    order = _postorder(function)
    places: dict[int, Places] = {}
    edges: dict[tuple[int, int], Places] = {}
    predecessors: dict[int, list[int]] = {}
    for vaddr, node in function.nodes.items():
        for each in node.successors:
            predecessors.setdefault(each, []).append(vaddr)
    zero_edges = {
        vaddr: edge
        for vaddr, node in function.nodes.items()
        if node.kind is Kind.BRANCH and (edge := _zero_edge(function, node, predecessors)) is not None
    }
    is_changed, n_rounds = True, 0
    while is_changed:
        is_changed, n_rounds = False, n_rounds + 1
        if n_rounds > _MAX_ROUNDS:
            raise FlowError(f"its loops are nested too deeply: {_MAX_ROUNDS} rounds are not enough")
        for vaddr in order:
            found = _before(function.nodes[vaddr], effects[vaddr], places, edges, zero_edges, needs_memory=needs_memory)
            if found is not None and places.get(vaddr) != found:
                places[vaddr] = found
                is_changed = True
    return Values(frames, places, edges)


def _before(
    node: Node,
    effect: _Effect,
    places: Mapping[int, Places],
    edges: dict[tuple[int, int], Places],
    zero_edges: Mapping[int, tuple[int, int]],
    *,
    needs_memory: bool,
) -> Places | None:
    """Where the value is before an instruction; None while no return is known to be reached."""
    if node.kind is Kind.RETURN:
        return frozenset((RAX,))
    if node.kind is Kind.ESCAPE and node.name in RETURNS_FIRST_ARGUMENT:
        return frozenset((RDI,))
    if node.kind is Kind.ESCAPE:
        return _NOWHERE
    if node.kind is Kind.CALL:
        if not any(each in places for each in _all_successors(node)):
            return None
        if node.name not in RETURNS_FIRST_ARGUMENT or needs_memory or node.pads:
            return _NOWHERE
    after: Places | None = None
    for successor in node.successors:
        there = places.get(successor)
        if there is None:
            continue
        if node.kind is Kind.BRANCH:
            there = _with_zero(there, zero_edges.get(node.vaddr), successor)
            edges[node.vaddr, successor] = there
        after = there if after is None else after & there
    if after is None:
        return None
    if effect.is_opaque or (needs_memory and effect.writes_elsewhere):
        return _NOWHERE
    return _through(effect, after)


def _all_successors(node: Node) -> Iterable[int]:
    return (*node.successors, *node.pads)


def _through(effect: _Effect, after: Places) -> Places:
    before = {place for place in after if place not in effect.written and not _is_overwritten(effect, place)}
    before.update(source for target, source in effect.copies if target in after)
    if not effect.cleared.isdisjoint(after):
        before.add(ZERO)
    return frozenset(before)


def _is_overwritten(effect: _Effect, place: int) -> bool:
    if place >= 0:
        return False
    if effect.writes_elsewhere:
        return True
    return effect.frame_bytes is not None and effect.frame_bytes[0] < place + _WORD and place < effect.frame_bytes[1]


def _with_zero(there: Places, zero_edge: tuple[int, int] | None, successor: int) -> Places:
    """The places on one way out of a branch that tests a register for 0."""
    if zero_edge is None or zero_edge[1] != successor:
        return there
    register = zero_edge[0]
    if ZERO in there or register in there:
        return there | {ZERO, register}
    return there


def _zero_edge(function: Function, branch: Node, predecessors: Mapping[int, list[int]]) -> tuple[int, int] | None:
    """(register, where the branch goes when that is 0); None where it tests something else."""
    mnemonic = branch.instruction.mnemonic
    if mnemonic not in ("je", "jne") or branch.successors[0] == branch.successors[1]:
        return None
    overwritten: set[int] = set()
    at = branch.vaddr
    for _ in range(_LOOK_BACK):
        before = predecessors.get(at, [])
        if len(before) != 1 or before[0] == at:
            return None
        node = function.nodes[before[0]]
        name = node.instruction.mnemonic
        if node.kind is not Kind.NEXT:
            return None
        if name == "test":
            names = [each.strip() for each in node.instruction.op_str.split(",")]
            register = WHOLE.get(names[0]) if names[0] == names[1] else None
            if register is None or register in overwritten:
                return None
            return register, branch.successors[0 if mnemonic == "je" else 1]
        if name not in _KEEPS_FLAGS:
            return None
        overwritten |= _written_registers(node.instruction)
        at = node.vaddr
    return None


# The stack


def _find_frames(function: Function) -> dict[int, Frame]:
    frames = {function.entry: Frame(0, None)}
    work = [function.entry]
    while work:
        vaddr = work.pop()
        node, frame = function.nodes[vaddr], frames[vaddr]
        if node.kind in (Kind.RETURN, Kind.ESCAPE) and frame.depth != 0:
            raise FlowError(f"where it ends at {vaddr:#x} the stack is not known to be as at its entry")
        after = _frame_after(node, frame)
        for each in _all_successors(node):
            known = frames.get(each)
            merged = after if known is None else Frame(_same(known.depth, after.depth), _same(known.rbp, after.rbp))
            if merged != known:
                frames[each] = merged
                work.append(each)
    return frames


def _same(one: int | None, other: int | None) -> int | None:
    return one if one == other else None


def _frame_after(node: Node, frame: Frame) -> Frame:
    instruction = node.instruction
    mnemonic, text, operands = instruction.mnemonic, instruction.op_str, instruction.operands
    depth, rbp = frame
    match mnemonic:
        case "push":
            return Frame(None if depth is None else depth + _WORD, rbp)
        case "pop":
            rbp = None if text == "rbp" else rbp
            return Frame(None if depth is None or text == "rsp" else depth - _WORD, rbp)
        case "leave":
            return Frame(None if rbp is None else -rbp - _WORD, None)
        case "call" | "ret":
            return frame
        case "mov" if text == "rbp, rsp":
            return Frame(depth, None if depth is None else -depth)
        case "mov" if text == "rsp, rbp":
            return Frame(None if rbp is None else -rbp, rbp)
        case "sub" | "add" if text.startswith("rsp, ") and operands[1].type == _immediate():
            step = operands[1].imm if mnemonic == "sub" else -operands[1].imm
            return Frame(None if depth is None else depth + step, rbp)
        case "lea" if text.startswith("rsp, "):
            address = _frame_address(instruction, operands[1], frame)
            return Frame(None if address is None else -address, rbp)
    written = _written_registers(instruction)
    return Frame(None if RSP in written else depth, None if RBP in written else rbp)


def _immediate() -> int:
    from capstone.x86 import X86_OP_IMM

    return int(X86_OP_IMM)


def _frame_address(instruction: Any, operand: Any, frame: Frame) -> int | None:
    """Where in the frame a memory operand is, counted from the return address; None where it is not in the frame."""
    memory = operand.mem
    if memory.index or memory.segment or not memory.base:
        return None
    base = instruction.reg_name(memory.base)
    if base == "rsp" and frame.depth is not None:
        return int(memory.disp) - frame.depth
    if base == "rbp" and frame.rbp is not None:
        return int(memory.disp) + frame.rbp
    return None


# What instructions do


def _effect(node: Node, frame: Frame) -> _Effect:
    from capstone.x86 import X86_OP_MEM, X86_OP_REG

    instruction = node.instruction
    mnemonic = instruction.mnemonic.rpartition(" ")[2]
    if node.kind is Kind.CALL:
        return _Effect(_NOT_KEPT, ((RAX, RDI),), writes_elsewhere=True)
    if node.kind is not Kind.NEXT:
        return _Effect()
    operands = instruction.operands
    if mnemonic in ("push", "pop"):
        return _stack_effect(mnemonic, instruction, frame)
    if mnemonic not in _COMPUTES or instruction.mnemonic.startswith("rep"):
        return _Effect(is_opaque=True)
    written = frozenset(_written_registers(instruction))
    names = [each.strip() for each in instruction.op_str.split(",")]
    if mnemonic in ("xor", "sub") and len(names) == 2 and names[0] == names[1] and operands[0].size >= 4:
        return _Effect(written, cleared=written)
    if mnemonic == "mov" and operands[0].type == X86_OP_REG and operands[1].type == _immediate():
        is_zero = operands[1].imm == 0 and operands[0].size >= 4
        return _Effect(written, cleared=written if is_zero else frozenset())
    if mnemonic == "mov" and operands[0].size == _WORD:
        return _move_effect(instruction, frame, written)
    if mnemonic == "xchg" and all(name in WHOLE for name in names):
        one, other = WHOLE[names[0]], WHOLE[names[1]]
        return _Effect(written, ((one, other), (other, one)))
    memory = [each for each in operands if each.type == X86_OP_MEM]
    if mnemonic in _READERS or mnemonic == "lea" or not memory or not _writes_memory(operands, mnemonic):
        return _Effect(written)
    return _memory_effect(instruction, memory[0], frame, written)


def _stack_effect(mnemonic: str, instruction: Any, frame: Frame) -> _Effect:
    register = WHOLE.get(instruction.op_str)
    if frame.depth is None:
        return _Effect(is_opaque=True)
    if mnemonic == "push":
        top = -frame.depth - _WORD
        return _Effect(frozenset(), ((top, register),) if register is not None else (), frame_bytes=(top, top + _WORD))
    if register is None:
        return _Effect(is_opaque=True)
    return _Effect(frozenset((register,)), ((register, -frame.depth),))


def _move_effect(instruction: Any, frame: Frame, written: frozenset[int]) -> _Effect:
    from capstone.x86 import X86_OP_MEM

    to, source = instruction.operands
    names = [each.strip() for each in instruction.op_str.split(",")]
    if to.type == X86_OP_MEM:
        effect = _memory_effect(instruction, to, frame, written)
        register = WHOLE.get(names[1])
        if effect.frame_bytes is None or register is None:
            return effect
        return effect._replace(copies=((effect.frame_bytes[0], register),))
    if source.type == X86_OP_MEM:
        place = _frame_address(instruction, source, frame)
        copies = ((BY_NAME[names[0]], place),) if place is not None and place < 0 else ()
        return _Effect(written, copies)
    if names[0] in WHOLE and names[1] in WHOLE:
        return _Effect(written, ((WHOLE[names[0]], WHOLE[names[1]]),))
    return _Effect(written)


def _memory_effect(instruction: Any, operand: Any, frame: Frame, written: frozenset[int]) -> _Effect:
    place = _frame_address(instruction, operand, frame)
    if place is None or place >= 0 or not operand.size:
        return _Effect(written, writes_elsewhere=True)
    return _Effect(written, frame_bytes=(place, place + operand.size))


def _writes_memory(operands: Any, mnemonic: str) -> bool:
    from capstone import CS_AC_WRITE
    from capstone.x86 import X86_OP_MEM

    return any(
        operand.type == X86_OP_MEM and (place == 0 or operand.access & CS_AC_WRITE or mnemonic in ("xchg", "xadd"))
        for place, operand in enumerate(operands)
    )


def _written_registers(instruction: Any) -> set[int]:
    """General registers that an instruction writes: its first operand too, whatever the disassembler's tables say."""
    from capstone import CS_AC_WRITE
    from capstone.x86 import X86_OP_REG

    mnemonic = instruction.mnemonic.rpartition(" ")[2]
    written = {BY_NAME.get(instruction.reg_name(register), -1) for register in instruction.regs_access()[1]}
    if mnemonic not in _READERS and mnemonic != "push":
        for place, operand in enumerate(instruction.operands):
            both = mnemonic in ("xchg", "xadd")
            if operand.type == X86_OP_REG and (place == 0 or both or operand.access & CS_AC_WRITE):
                written.add(BY_NAME.get(instruction.reg_name(operand.reg), -1))
    if mnemonic in ("cmpxchg", "cmpxchg16b", "mul", "div", "idiv", "imul", "cqo", "cdq", "cdqe", "cwde"):
        written.add(RAX)
    if mnemonic in ("mul", "div", "idiv", "cqo", "cdq", "cmpxchg16b", "imul"):
        written.add(RDX)
    if mnemonic == "cmpxchg16b":
        written |= {RCX}
    return written - {-1}


def _postorder(function: Function) -> list[int]:
    """Addresses with successors before predecessors, as far as there are no loops."""
    order: list[int] = []
    seen = {function.entry}
    stack = [(function.entry, iter(tuple(_all_successors(function.nodes[function.entry]))))]
    while stack:
        vaddr, successors = stack[-1]
        for each in successors:
            if each not in seen:
                seen.add(each)
                stack.append((each, iter(tuple(_all_successors(function.nodes[each])))))
                break
        else:
            order.append(vaddr)
            stack.pop()
    return order
