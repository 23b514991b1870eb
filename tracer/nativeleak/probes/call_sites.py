"""Call sites of the allocator in an object: where it is called, and where the block is in a register afterwards.

A probe in malloc costs as much as all calls together are frequent. A probe at one call instruction costs as much as
that call is. So call sites that are rare can be watched all the time where malloc itself cannot.

A call is found by its target: a stub of the procedure linkage table, a word of the global offset table, or the function
itself. It counts only where decoding its function from the first instruction on comes upon it: a probe in the middle of
an instruction would end the process. The place behind the call is the first instruction that the kernel emulates,
if there is one before a branch, while a register still holds the block; else the one that the call returns to, which is
single-stepped.

Scope: x86-64 objects with ``.eh_frame_hdr``. Calls through other pointers, and functions that end in a jump to the
allocator, have no call site here.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from nativeleak.arch import X86_64
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.decode import branch_target, decode, disassemble, written_registers
from nativeleak.probes.emulation import InstructionClass, classify
from nativeleak.probes.families import OPERATORS, STANDARD
from nativeleak.probes.image import Image
from nativeleak.probes.landing import LandingPads
from nativeleak.probes.registers import RAX, RSP, WHOLE
from nativeleak.symbols.elf import PF_X, ElfFile
from nativeleak.symbols.functions import function_symbols
from nativeleak.symbols.source import ElfError

MAKERS: Final[Mapping[str, AllocCall]] = {
    name: kind for name, kind in {**STANDARD, **OPERATORS}.items() if not kind.spec.frees
}
"""Functions whose calls are looked for."""

MAX_SITES: Final = 4096
"""Of one object; ``NL_MAX_CALL_SITES`` of all."""
_MAX_FUNCTION_BYTES: Final = 1 << 18
_MAX_TEXT_BYTES: Final = 256 << 20
_MAX_BEHIND: Final = 24
"""Instructions that are looked at behind a call."""
_INSTRUCTION_BYTES: Final = 15
_ENDS: Final = ("j", "call", "ret", "loop", "pop", "push", "leave", "ud", "hlt", "int", "syscall")
_STUB: Final = re.compile(rb"\xff\x25", re.DOTALL)
_CALL: Final = re.compile(rb"\xe8", re.DOTALL)
_CALL_INDIRECT: Final = re.compile(rb"\xff\x15", re.DOTALL)
_ENDBR64: Final = b"\xf3\x0f\x1e\xfa"
_WRITES_FIRST_ONLY: Final = frozenset({"mov", "movups", "movaps", "movdqa", "movdqu", "movq"}) | frozenset(
    {"add", "sub", "and", "or", "xor", "inc", "dec", "not", "neg"}
)
"""Of these no register changes where the first operand is in memory, with a ``lock`` before them or without."""
_PLAIN: Final = frozenset(
    {"mov", "movabs", "lea", "test", "cmp", "add", "sub", "and", "or", "xor", "pop", "ret", "leave"}
)
"""May be single-stepped. The kernel refuses probes on instructions with a ``lock``."""


class CallSite(NamedTuple):
    """One call instruction.

    Attributes:
        offset: Of the instruction in the file.
        n_bytes: Its length.
        callee: Name of the function.
        kind: Of call.
        landing: Offset in the file of the place behind it where the block is known.
        register: Which holds the block there, as x86-64 counts them.
        n_stepped: How many of the two places the kernel single-steps.
    """

    offset: int
    n_bytes: int
    callee: str
    kind: AllocCall
    landing: int
    register: int
    n_stepped: int


class _Place(NamedTuple):
    """A place behind a call: its distance from the return address, the register with the block."""

    distance: int
    register: int
    is_emulated: bool


class _Found(NamedTuple):
    """A possible call instruction: its address, its length, and the function that it calls."""

    vaddr: int
    n_bytes: int
    callee: str


def find_call_sites(elf: ElfFile, emulated: AbstractSet[InstructionClass], names: Collection[str]) -> list[CallSite]:
    """The call sites of some functions in an object, by address.

    Args:
        elf: The object.
        emulated: What this kernel emulates.
        names: Functions, of ``MAKERS``.

    Raises:
        ElfError: The object is damaged.
    """
    if elf.machine != X86_64.elf_machine:
        return []
    image = Image(elf)
    pads = LandingPads(image)
    own = {symbol.vaddr: name for name, symbol in function_symbols(elf, names).items()}
    by_function: dict[tuple[int, int], list[_Found]] = {}
    for found in _possible_calls(image, own, frozenset(names)):
        function = pads.function_around(found.vaddr)
        # An allocator's functions call each other: what counts is who calls the first of them.
        if function is not None and function[0] not in own and function[1] - function[0] <= _MAX_FUNCTION_BYTES:
            by_function.setdefault(function, []).append(found)
    sites: list[CallSite] = []
    for function, calls in sorted(by_function.items()):
        sites += _proven(image, function, calls, emulated)
        if len(sites) > MAX_SITES:
            break
    return sites[:MAX_SITES]


def _possible_calls(image: Image, own: Mapping[int, str], names: frozenset[str]) -> Iterator[_Found]:
    """Bytes that look like a call of one of the functions, by whatever way."""
    texts = [
        (segment.vaddr, image.read_code(segment.vaddr, segment.file_bytes))
        for segment in image.elf.loads
        if segment.flags & PF_X and segment.file_bytes <= _MAX_TEXT_BYTES
    ]
    targets = dict(own)
    for base, text in texts:
        for at in _places(_STUB, text):
            name = _name_in_slot(image, base + at + 6 + _displacement(text, at + 2), names)
            if name:
                targets |= dict.fromkeys(_stub_starts(base, text, at), name)
    for base, text in texts:
        for at in _places(_CALL, text):
            callee = targets.get(base + at + 5 + _displacement(text, at + 1))
            if callee is not None:
                # The linker turns a call through a slot into a direct one behind an empty prefix.
                n_prefix = int(text[at - 1 : at] == b"\x67")
                yield _Found(base + at - n_prefix, 5 + n_prefix, callee)
        for at in _places(_CALL_INDIRECT, text):
            name = _name_in_slot(image, base + at + 6 + _displacement(text, at + 2), names)
            if name:
                yield _Found(base + at, 6, name)


def _places(pattern: re.Pattern[bytes], text: bytes) -> Iterator[int]:
    return (match.start() for match in pattern.finditer(text, 0, max(0, len(text) - 6)))


def _displacement(text: bytes, at: int) -> int:
    return int.from_bytes(text[at : at + 4], "little", signed=True)


def _name_in_slot(image: Image, slot: int, names: frozenset[str]) -> str:
    callee = image.callee_in_slot(slot).name.partition("@")[0]
    return callee if callee in names else ""


def _stub_starts(base: int, text: bytes, at: int) -> Iterator[int]:
    """Addresses at which a stub with this jump may begin: at the jump, at its prefix, at the mark before it."""
    at -= text[at - 1 : at] == b"\xf2"
    yield base + at
    if text[at - 4 : at] == _ENDBR64:
        yield base + at - 4


def _proven(
    image: Image, function: tuple[int, int], calls: list[_Found], emulated: AbstractSet[InstructionClass]
) -> Iterator[CallSite]:
    """Those calls that are instructions of the function, with the places behind them."""
    start, end = function
    code = image.read_code(start, end - start)
    lines = disassemble(code, 0)
    lengths = {line[0]: line[1] for line in lines}
    targets = {target for line in lines if (target := branch_target(line)) is not None}
    # A place at a call site would be probed twice.
    own = {found.vaddr - start for found in calls}
    for found in calls:
        at = found.vaddr - start
        offset = image.elf.vaddr_to_offset(found.vaddr)
        if lengths.get(at) != found.n_bytes or offset is None:
            continue
        behind = at + found.n_bytes
        if behind not in lengths:
            continue  # Nothing follows: it never returns here.
        if behind in own:
            continue
        place = _landing(code[behind:], behind, targets | own, emulated)
        if place is None:
            continue
        n_stepped = (not place.is_emulated) + (classify(code[at:]) not in emulated)
        landing = offset + found.n_bytes + place.distance
        yield CallSite(offset, found.n_bytes, found.callee, MAKERS[found.callee], landing, place.register, n_stepped)


def _landing(code: bytes, at: int, closed: AbstractSet[int], emulated: AbstractSet[InstructionClass]) -> _Place | None:
    """The place behind a call, the best there is; None where no probe can be set.

    Args:
        code: Behind the call.
        at: Where that is in the function.
        closed: Where the search ends: what another path may come by, with something else in the registers.
        emulated: What this kernel emulates.
    """
    holders = {RAX}
    stepped: _Place | None = None
    window = code[: _MAX_BEHIND * _INSTRUCTION_BYTES]
    for n, instruction in enumerate(decode(window)):
        distance = instruction.address
        if n >= _MAX_BEHIND or not holders or (distance and at + distance in closed):
            break
        kind = classify(window[distance:])
        if kind in emulated:
            return _Place(distance, min(holders), is_emulated=True)
        if stepped is None and instruction.mnemonic in _PLAIN:
            stepped = _Place(distance, min(holders), is_emulated=False)
        written = written_registers(instruction)
        if written is None and instruction.mnemonic.rpartition(" ")[2] in _WRITES_FIRST_ONLY:
            written = set()
        if written is None or RSP in written or instruction.mnemonic.startswith(_ENDS):
            break
        first, _, second = instruction.op_str.partition(", ")
        if instruction.mnemonic == "mov" and first in WHOLE and WHOLE.get(second) in holders:
            holders.add(WHOLE[first])
        else:
            holders -= written
    return stepped


def main() -> int:
    """``EMULATED PATH...``: write the call sites of each object, a JSON list a line; of what cannot be read none."""
    classes, *paths = sys.argv[1:]
    emulated = frozenset(InstructionClass(each) for each in classes.split(",") if each)
    for path in paths:
        sites: list[CallSite] = []
        with contextlib.suppress(ElfError, OSError), ElfFile.open(path) as elf:
            sites = find_call_sites(elf, emulated, MAKERS)
        sys.stdout.write(f"{json.dumps(sites)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
