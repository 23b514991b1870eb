"""The exits of an allocator function: places at which its block is known, and which every call passes exactly once.

A probe there sees what a return probe sees, and puts nothing in the place of the return address: exceptions may pass,
stacks may be left and walked. Each place is an instruction that the kernel emulates and before which a register
provably holds what the function is going to return (``values.py``); of a conditional branch it may be one way only.
Where a path has no such place, its ``ret`` or another plain instruction is one: each hit is then single-stepped. Of all
possible sets the cheapest is taken, paths that run through no call counting a thousand times as much as others.

Nothing is called behind an exit, so that a call that was seen to end has ended. A jump to another probed function is an
exit of its own kind: that one's exits are this one's too. A jump to where a variable says (a hook of glibc before 2.34)
is one at which nothing is known but that the call is gone.

Scope: x86-64. A function whose paths are not understood has no exits, and the reason is given.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from nativeleak.probes.calls import AllocCall
from nativeleak.probes.cut import UNLIMITED, Cut
from nativeleak.probes.emulation import InstructionClass, classify
from nativeleak.probes.flow import RETURNS_FIRST_ARGUMENT, FlowError, FlowReader, Function, Kind, Node
from nativeleak.probes.registers import N_REGISTERS, RAX, RSP, WHOLE
from nativeleak.probes.values import ZERO, Values, find_values
from nativeleak.symbols.source import ElfError

MAX_DEPTH_BYTES: Final = 8 * 0xFFFF
"""An exit's distance from the return address, in words, has 16 bits in the cookie of its probe."""
UNSEEN: Final = ZERO + 1
"""Stands for a register where what comes back is not known: a hook was called instead, and the call counts as lost."""

_PLAIN: Final = frozenset({"ret", "mov", "xor", "pop", "add", "lea", "movabs"})
"""Instructions that may be single-stepped: they only compute, and the kernel runs them out of line as they are."""

_NODE_COST: Final = 10
_EDGE_COST: Final = 11
_PASSED_COST: Final = 2_000
"""A branch of which the way taken mostly is no exit: every call traps there."""
_STEPPED_COST: Final = 1_000
_HOT_FACTOR: Final = 1_000
_FOREIGN_FACTOR: Final = 500
"""In a function that others may call as well."""


@dataclass(frozen=True, slots=True)
class Exit:
    """One place.

    Attributes:
        vaddr: Address of the instruction, as the object counts.
        register: Which register holds the result, as x86-64 counts them; ``ZERO`` where the function returns 0,
            ``UNSEEN`` where another function returns in its place.
        depth_bytes: From the stack pointer to the return address.
        condition: It is an exit only where the branch's condition of this number holds (Intel SDM vol. 2, appendix B);
            None where it always is.
        emulated: The kernel emulates the instruction.
        is_hot: It may be passed by a call that calls nothing else.
        instruction: For people.
    """

    vaddr: int
    register: int
    depth_bytes: int
    condition: int | None
    emulated: bool
    is_hot: bool
    instruction: str

    @property
    def is_costly(self) -> bool:
        """Whether calls that call nothing else are single-stepped here."""
        return self.is_hot and not self.emulated and self.register != UNSEEN


@dataclass(frozen=True, slots=True)
class Exits:
    """What was found about a function.

    Attributes:
        places: Its exits, in order of address.
        goes_on_in: Addresses of other probed functions that it ends in by a jump.
        is_wrapper: All that it returns comes from another probed function, or is 0.
        calls_probed: It calls another probed function itself.
        reason: Why it has no exits; empty where it has.
    """

    places: tuple[Exit, ...] = ()
    goes_on_in: tuple[int, ...] = ()
    is_wrapper: bool = False
    calls_probed: bool = False
    reason: str = ""

    @property
    def is_costly(self) -> bool:
        """Whether calls that run through no other call are single-stepped at their exit."""
        return any(place.is_costly for place in self.places)


def find_exits(
    reader: FlowReader,
    entry: int,
    kind: AllocCall,
    emulated: AbstractSet[InstructionClass],
    probed: Collection[int] = (),
) -> Exits:
    """Where a function is left.

    Args:
        reader: Reads its object.
        entry: Address of its first instruction.
        kind: What it returns; of posix_memalign the block must be in memory too.
        emulated: What this kernel emulates.
        probed: Addresses of the object's allocating functions that are probed as well.
    """
    try:
        function = reader.read(entry, stop_at=frozenset(probed) - {entry})
        values = find_values(function, needs_memory=kind is AllocCall.POSIX_MEMALIGN)
        return _Search(function, values, emulated, frozenset(probed)).run()
    except (FlowError, ElfError) as error:
        return Exits(reason=error.what)


class _Search:
    """The search for the exits of one function."""

    def __init__(
        self, function: Function, values: Values, emulated: AbstractSet[InstructionClass], probed: frozenset[int]
    ) -> None:
        self._nodes = function.nodes
        self._function = function
        self._values = values
        self._emulated = emulated
        self._probed = probed
        self._hot = self._find_hot()
        self._own = self._find_own()

    def run(self) -> Exits:
        """The exits.

        Raises:
            FlowError: There is a way out on which nothing is known.
        """
        for node in self._nodes.values():
            is_known = self._goes_on(node) or _is_hook(node) or node.name in RETURNS_FIRST_ARGUMENT
            if node.kind is Kind.ESCAPE and not is_known:
                raise FlowError(f"it ends in a jump to {node.name or 'an unknown function'} at {node.vaddr:#x}")
        goes_on = {node.callee for node in self._nodes.values() if self._goes_on(node) and node.callee is not None}
        places = self._cut()
        return Exits(
            tuple(sorted(places, key=lambda place: place.vaddr)),
            tuple(sorted(goes_on)),
            self._is_wrapper(),
            self._calls_probed(),
        )

    def _goes_on(self, node: Node) -> bool:
        return node.kind is Kind.ESCAPE and node.callee in self._probed

    def _find_hot(self) -> set[int]:
        """Addresses that are reached without a call, and without it being certain that the function fails."""
        hot: set[int] = set()
        work = [self._function.entry]
        while work:
            vaddr = work.pop()
            if vaddr in hot or ZERO in self._values.places.get(vaddr, ()):
                continue
            hot.add(vaddr)
            node = self._nodes[vaddr]
            if node.kind is not Kind.CALL:
                work += [each for each in node.successors if ZERO not in self._values.edges.get((vaddr, each), ())]
        return hot

    def _find_own(self) -> set[int]:
        """Addresses that are reached without a jump to a function that anybody may call: memset ends calloc on musl."""
        own: set[int] = set()
        work = [self._function.entry]
        while work:
            vaddr = work.pop()
            if vaddr not in own:
                own.add(vaddr)
                node = self._nodes[vaddr]
                if not (node.kind is Kind.JUMP and node.name):
                    work += (*node.successors, *node.pads)
        return own

    def _is_wrapper(self) -> bool:
        seen: set[int] = set()
        work = [self._function.entry]
        while work:
            vaddr = work.pop()
            node = self._nodes[vaddr]
            if vaddr in seen or ZERO in self._values.places.get(vaddr, ()) or self._goes_on(node):
                continue
            seen.add(vaddr)
            if node.kind in (Kind.RETURN, Kind.ESCAPE):
                return False
            is_passed_on = node.kind is Kind.CALL and node.callee in self._probed
            if not is_passed_on or RAX not in self._values.places.get(node.end, ()):
                work += node.successors
            work += node.pads
        return True

    def _calls_probed(self) -> bool:
        return any(node.kind is Kind.CALL and node.callee in self._probed for node in self._nodes.values())

    # The cut

    def _cut(self) -> list[Exit]:
        """Split each instruction in two: cutting the arc between the halves makes it an exit."""
        reaching = self._reaching()
        if self._function.entry not in reaching:
            raise FlowError("it never returns")
        numbers = {vaddr: 2 * n + 2 for n, vaddr in enumerate(sorted(reaching))}
        source, sink = 0, 1
        cut = Cut(2 * len(numbers) + 2)
        cut.add_arc(source, numbers[self._function.entry], UNLIMITED)
        for vaddr, number in numbers.items():
            node = self._nodes[vaddr]
            cut.add_arc(number, number + 1, self._node_cost(node))
            if node.kind in (Kind.RETURN, Kind.ESCAPE):
                cut.add_arc(number + 1, sink, 0 if self._goes_on(node) else UNLIMITED)
            for each in (*dict.fromkeys((*node.successors, *node.pads)),):
                if each in numbers:
                    cut.add_arc(number + 1, numbers[each], self._edge_cost(node, each))
        side = cut.find(source, sink)
        if side is None:
            raise FlowError("on some way the block is in no known place before it returns")
        places = []
        for vaddr, number in numbers.items():
            node = self._nodes[vaddr]
            if number in side and number + 1 not in side:
                known = frozenset((UNSEEN,)) if _is_hook(node) else self._values.places[vaddr]
                places.append(self._exit(node, known, None))
            places += [
                self._exit(node, self._values.edges[vaddr, each], each)
                for each in node.successors
                if number + 1 in side and each in numbers and numbers[each] not in side
            ]
        return places

    def _reaching(self) -> set[int]:
        """Addresses from which the function's end can be reached."""
        predecessors: dict[int, list[int]] = {}
        for vaddr, node in self._nodes.items():
            for each in (*node.successors, *node.pads):
                predecessors.setdefault(each, []).append(vaddr)
        reaching: set[int] = set()
        work = [v for v, node in self._nodes.items() if node.kind in (Kind.RETURN, Kind.ESCAPE)]
        while work:
            vaddr = work.pop()
            if vaddr not in reaching:
                reaching.add(vaddr)
                work += predecessors.get(vaddr, [])
        return reaching

    def _is_known(self, vaddr: int, places: AbstractSet[int]) -> bool:
        depth = self._values.frames[vaddr].depth
        is_encodable = depth is not None and 0 <= depth <= MAX_DEPTH_BYTES and depth % 8 == 0
        return _register(places) is not None and is_encodable

    def _node_cost(self, node: Node) -> int:
        places = self._values.places.get(node.vaddr, frozenset())
        factor = 1 if node.vaddr in self._own else _FOREIGN_FACTOR
        if _is_hook(node):
            return _NODE_COST
        if not self._is_known(node.vaddr, places):
            return UNLIMITED
        if self._is_emulated(node):
            return _NODE_COST * factor
        if node.instruction.mnemonic in _PLAIN and "rip" not in node.instruction.op_str:
            return _STEPPED_COST * factor * (_HOT_FACTOR if node.vaddr in self._hot else 1)
        return UNLIMITED

    def _edge_cost(self, node: Node, successor: int) -> int:
        places = self._values.edges.get((node.vaddr, successor), frozenset())
        if node.kind is not Kind.BRANCH or node.successors[0] == node.successors[1]:
            return UNLIMITED
        if not self._is_emulated(node) or not self._is_known(node.vaddr, places):
            return UNLIMITED
        is_passed = node.vaddr in self._hot and (successor not in self._hot or ZERO in places)
        factor = 1 if node.vaddr in self._own else _FOREIGN_FACTOR
        return factor * (_PASSED_COST if is_passed else _EDGE_COST)

    def _is_emulated(self, node: Node) -> bool:
        return classify(node.code) in self._emulated

    def _exit(self, node: Node, places: AbstractSet[int], successor: int | None) -> Exit:
        register, depth = _register(places), self._values.frames[node.vaddr].depth
        assert register is not None  # noqa: S101
        assert depth is not None  # noqa: S101
        condition = None
        if successor is not None:
            opcode = node.code[1] if node.code[0] == 0x0F else node.code[0]
            condition = opcode & 0xF ^ (successor != node.successors[0])
        text = f"{node.instruction.mnemonic} {node.instruction.op_str}".strip()
        return Exit(node.vaddr, register, depth, condition, self._is_emulated(node), node.vaddr in self._hot, text)


def _is_hook(node: Node) -> bool:
    """Whether it jumps to where a register says: the hooks of glibc before 2.34."""
    return node.kind is Kind.ESCAPE and node.callee is None and not node.name and node.instruction.op_str in WHOLE


def _register(places: AbstractSet[int]) -> int | None:
    """The register to read the result from; None where it is in none."""
    registers = sorted(place for place in places if 0 <= place < N_REGISTERS and place != RSP)
    if registers:
        return registers[0]
    return next((place for place in (ZERO, UNSEEN) if place in places), None)
