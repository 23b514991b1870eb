"""The flow of control of a whole function: every instruction that it can come to, and where it goes from there.

Followed are branches, jumps into other functions (tail calls) and into cold parts, jumps by tables of offsets, and
landing pads of exceptions. A call goes on behind it unless the function called provably never returns; where that is
not clear it counts as returning, which only adds paths. What cannot be followed ends the analysis with a reason.

Scope: x86-64, System V ABI.
Source: Intel SDM vol. 2.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from nativeleak.arch import X86_64
from nativeleak.errors import NativeleakError
from nativeleak.probes.image import Image
from nativeleak.probes.landing import LandingPads
from nativeleak.probes.registers import BY_NAME, RDI
from nativeleak.probes.returning import Returning, constant, never_returns

MAX_INSTRUCTIONS: Final = 5_000
"""Of one function with all that it jumps to; the longest seen, jemalloc's realloc, has 4,500."""
RETURNS_FIRST_ARGUMENT: Final = frozenset({"memset", "memcpy", "memmove"})
"""Functions that are known to: what a jump to one gives back is in rdi before it (C11, 7.24)."""
_CHUNK_BYTES: Final = 512
_MAX_TABLE: Final = 1024
_LOOK_BACK: Final = 12

_SLOT: Final = re.compile(r"qword ptr \[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_TARGET: Final = re.compile(r"0x[0-9a-f]+|\d+")


class FlowError(NativeleakError):
    """The function's paths are not understood; the text says why and where."""


class Kind(Enum):
    """How an instruction goes on."""

    NEXT = auto()
    BRANCH = auto()
    JUMP = auto()
    CALL = auto()
    RETURN = auto()
    ESCAPE = auto()
    """A jump to a function that is not a part of this one, or not known."""
    STOP = auto()


@dataclass(slots=True)
class Node:
    """One instruction.

    Attributes:
        vaddr: Its address.
        code: Its bytes.
        kind: How it goes on.
        instruction: As the disassembler has it, with details.
        successors: Addresses that come next; of a branch first the target, then the next instruction.
        callee: Address of what it calls or jumps to, None where that is not in this object.
        name: Of what it calls or escapes to, as far as it is known.
        pads: Landing pads that an exception out of this call goes to.
    """

    vaddr: int
    code: bytes
    kind: Kind
    instruction: Any
    successors: tuple[int, ...] = ()
    callee: int | None = None
    name: str = ""
    pads: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Address of the next instruction in memory."""
        return self.vaddr + len(self.code)


@dataclass(slots=True)
class Function:
    """A function's instructions by address, all that can be reached from ``entry``.

    Attributes:
        entry: Address of the first.
        stop_at: Functions that are not a part of this one, whatever jumps to them.
        nodes: The instructions.
    """

    entry: int
    stop_at: AbstractSet[int] = frozenset()
    nodes: dict[int, Node] = field(default_factory=dict)


class FlowReader:
    """Reads functions of one object; what it has learnt about callees it keeps.

    Args:
        image: The object.
    """

    def __init__(self, image: Image) -> None:
        import capstone  # 50 to 75 ms and 10 MB, needed only for an object that is not in the cache

        self._image = image
        kind = [getattr(capstone, name) for name in X86_64.capstone]
        self._detailed = capstone.Cs(*kind)
        self._detailed.detail = True
        self._plain = capstone.Cs(*kind)
        self._pads = LandingPads(image)
        self._callees: dict[int, tuple[int | None, str]] = {}
        self._returning = Returning(image, self._plain, self._pads, self._callee)

    def read(self, entry: int, stop_at: AbstractSet[int] = frozenset()) -> Function:
        """The whole function at an address.

        Args:
            entry: Where it begins.
            stop_at: Where other functions begin: a jump there counts as an escape.

        Raises:
            FlowError: It cannot be followed.
        """
        function = Function(entry, frozenset(stop_at))
        work = [entry]
        while work:
            vaddr = work.pop()
            if vaddr in function.nodes:
                continue
            for node in self._run(function, vaddr):
                function.nodes[node.vaddr] = node
                work.extend(each for each in (*node.successors, *node.pads) if each not in function.nodes)
        _check_overlaps(function)
        return function

    def _run(self, function: Function, vaddr: int) -> list[Node]:
        """Instructions from an address on, up to the first that does not simply go on, or one that is known."""
        nodes: list[Node] = []
        while True:
            code = self._image.read_code(vaddr, _CHUNK_BYTES)
            if not code:
                raise FlowError(f"it goes to {vaddr:#x}, where there is no code")
            at = vaddr
            for instruction in self._detailed.disasm(code, vaddr):
                if instruction.address in function.nodes:
                    return nodes
                if len(function.nodes) + len(nodes) >= MAX_INSTRUCTIONS:
                    raise FlowError(f"it has more than {MAX_INSTRUCTIONS} instructions")
                node = self._node(function, instruction, nodes)
                nodes.append(node)
                at = node.end
                if node.kind is not Kind.NEXT and node.kind is not Kind.CALL:
                    return nodes
                if not node.successors:
                    return nodes
            if at == vaddr:
                raise FlowError(f"at {vaddr:#x} is no instruction that the disassembler knows")
            vaddr = at

    def _node(self, function: Function, instruction: Any, before: list[Node]) -> Node:
        mnemonic = instruction.mnemonic.rpartition(" ")[2]
        node = Node(instruction.address, bytes(instruction.bytes), Kind.NEXT, instruction)
        if mnemonic in ("ret", "retq"):
            node.kind = Kind.RETURN
        elif mnemonic == "call":
            self._follow_call(node, before)
        elif mnemonic == "jmp":
            self._follow_jump(function, node, before)
        elif mnemonic.startswith(("j", "loop")):
            target = _target(instruction.op_str)
            if target is None:
                raise FlowError(f"the branch at {node.vaddr:#x} has no target")
            node.kind, node.callee, node.successors = Kind.BRANCH, target, (target, node.end)
        elif mnemonic in ("ud2", "ud1", "ud0", "hlt", "int3"):
            node.kind = Kind.STOP
        elif mnemonic in ("retf", "iretq", "iret", "sysret", "sysexit", "ljmp", "lcall", "xbegin", "int"):
            raise FlowError(f"{mnemonic} at {node.vaddr:#x} cannot be followed")
        else:
            node.successors = (node.end,)
        return node

    def _follow_call(self, node: Node, before: list[Node]) -> None:
        node.kind = Kind.CALL
        node.callee, node.name = self._callee(node.instruction.op_str, node.end)
        node.pads = self._pads.of_call(node.vaddr)
        if node.callee == node.end:
            raise FlowError(f"the call at {node.vaddr:#x} only asks for its own address")
        argument = _first_argument(before)
        if not self._pads.is_end(node.end) and self._returning.may_return(node.callee, node.name, argument):
            node.successors = (node.end,)

    def _follow_jump(self, function: Function, node: Node, before: list[Node]) -> None:
        node.kind = Kind.JUMP
        target = _target(node.instruction.op_str)
        if target is None and not _SLOT.fullmatch(node.instruction.op_str):
            node.successors = self._table(function, node, before)
            if not node.successors:
                node.kind = Kind.ESCAPE
            return
        node.callee, node.name = self._callee(node.instruction.op_str, node.end)
        if never_returns(node.name):
            node.kind = Kind.STOP
        elif node.callee is None or node.callee in function.stop_at or node.name in RETURNS_FIRST_ARGUMENT:
            node.kind = Kind.ESCAPE
        else:
            node.successors = (node.callee,)

    def _callee(self, operand: str, end: int) -> tuple[int | None, str]:
        """(address in this object, name) of what a call or a jump goes to, through a stub too."""
        target = _target(operand)
        if target is None:
            match = _SLOT.fullmatch(operand)
            if match is None:
                return None, ""
            return self._image.callee_in_slot(_slot(match, end))
        if target not in self._callees:
            stub = self._stub(target)
            self._callees[target] = (target, self._image.name_at(target)) if stub is None else stub
        return self._callees[target]

    def _stub(self, vaddr: int) -> tuple[int | None, str] | None:
        """What an entry of the procedure linkage table leads to; None for any other code.

        Source: System V ABI for x86-64, 5.2: it is an indirect jump, behind endbr64 where that is used.
        """
        code = self._image.read_code(vaddr, 24)
        for address, size, mnemonic, operand in self._plain.disasm_lite(code, vaddr):
            if mnemonic == "endbr64":
                continue
            match = _SLOT.fullmatch(operand) if mnemonic.rpartition(" ")[2] == "jmp" else None
            if match is None:
                return None
            callee = self._image.callee_in_slot(_slot(match, address + size))
            return callee if callee.name or callee.vaddr is not None else None
        return None

    # Tables of places

    def _table(self, function: Function, node: Node, before: list[Node]) -> tuple[int, ...]:
        """Places that a jump through a register may go to by a table of offsets; empty where it is no such jump.

        Compilers write: ``cmp index, n; ja default; lea base, [rip+table]; movsxd r, [base+index*4]; add r, base;
        jmp r``.

        Raises:
            FlowError: It looks like a table whose end is not known.
        """
        lines = [*self._straight_before(function, before, node.vaddr), *before][-_LOOK_BACK:]
        base = n_entries = None
        is_table = False
        for each in lines:
            instruction = each.instruction
            if instruction.mnemonic == "lea" and "[rip" in instruction.op_str:
                base = each.end + instruction.operands[1].mem.disp
            elif instruction.mnemonic == "movsxd" and "*4]" in instruction.op_str:
                is_table = True
            elif instruction.mnemonic == "cmp" and _TARGET.fullmatch(instruction.op_str.rpartition(", ")[2]):
                n_entries = int(instruction.op_str.rpartition(", ")[2], 0) + 1
        if not is_table:
            return ()
        if base is None or n_entries is None or n_entries > _MAX_TABLE:
            raise FlowError(f"the table of the jump at {node.vaddr:#x} is not understood")
        data = self._image.read_data(base, 4 * n_entries)
        if not data:
            raise FlowError(f"the table of the jump at {node.vaddr:#x} is not in the file")
        offsets = memoryview(data).cast("i")
        return tuple(dict.fromkeys(base + offset for offset in offsets))

    @staticmethod
    def _straight_before(function: Function, before: list[Node], vaddr: int) -> list[Node]:
        """What stands in memory before the run that ends at an address, the branch that guards a table among it."""
        start = before[0].vaddr if before else vaddr
        ends = {node.end: node for node in function.nodes.values()}
        found: list[Node] = []
        while start in ends and len(found) < _LOOK_BACK:
            found.append(ends[start])
            start = ends[start].vaddr
        return found[::-1]


def _slot(match: re.Match[str], end: int) -> int:
    """Address of a word that an instruction names by its distance."""
    return end + int((match[1] or "+") + (match[2] or "0"), 0)


def _target(operand: str) -> int | None:
    """Where a relative branch goes; None for any other operand."""
    return int(operand, 0) if _TARGET.fullmatch(operand) else None


def _first_argument(before: list[Node]) -> int | None:
    """The constant that is in rdi behind these instructions, None where it is none."""
    for node in reversed(before):
        instruction = node.instruction
        found = constant(instruction.mnemonic, instruction.op_str)
        if found is not None and found[0] == RDI:
            return found[1]
        if node.kind is Kind.CALL or any(
            BY_NAME.get(instruction.reg_name(each)) == RDI for each in instruction.regs_access()[1]
        ):
            return None
    return None


def _check_overlaps(function: Function) -> None:
    """Make sure that no instruction begins inside of another.

    Raises:
        FlowError: One does: a byte of it may be a probe's.
    """
    last: Node | None = None
    for vaddr in sorted(function.nodes):
        if last is not None and vaddr < last.end:
            raise FlowError(f"the instruction at {last.vaddr:#x} has another one inside of it")
        last = function.nodes[vaddr]
