"""Where in an allocator function its probe goes: the first place that the kernel emulates, with all as at the entry.

The straight-line beginning of the function is walked, instruction by instruction. It ends where a branch may leave,
where an argument or the frame pointer is overwritten, where memory is written (a freed block could be in other hands by
then), and at whatever is not known to be harmless. A place that the function can come to a second time is none. Where
no place is left, the probe goes to the entry.

Scope: x86-64. On aarch64 everything goes to the entry.
Caveat: code that jumps into the middle of an allocator function from outside of it, other than from its own cold part,
is not looked for; a probe at the entry would miss such calls altogether.
Source: Intel SDM vol. 2 for encodings and register numbers, System V ABI for the registers of arguments.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

from nativeleak.digest import blake2b
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.emulation import CONSERVATIVE, InstructionClass, classify
from nativeleak.probes.families import FREE_KINDS, CallKind, ProbePoint
from nativeleak.symbols.elf import PF_X, ElfError, ElfFile
from nativeleak.symbols.functions import function_symbols

_VERSION: Final = 1
_EM_X86_64: Final = 62  # elf.h
_MAX_FUNCTION_BYTES: Final = 1 << 16
_UNSIZED_BYTES: Final = 4096
"""Looked at of a function whose length the symbol table does not tell."""
_MAX_OUTSIDE_BYTES: Final = 1 << 16

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
    CallKind.NEW: (0,),
}
"""Which arguments the BPF program reads, counted from 0: ``requested_size``, ``enter_call`` in ``bpf/alloc.bpf.c``."""

_MAX_OFFSET: Final = 255
_MAX_PUSHED_BYTES: Final = 255 * 8
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

_Line = tuple[int, int, str, str]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the probe of a function goes.

    Attributes:
        offset: Bytes from the function's first instruction, 0 to 255.
        emulated: The kernel emulates the instruction there; if not, each hit costs a second trap.
        instruction: It, for people: ``push rbp``; empty where it was not decoded.
        sees_null: A free of NULL hits the probe too.
        pushed_bytes: How much lower than at the entry the stack pointer is: a multiple of 8 up to 2040, and 0 for all
            but functions that free.
        arguments: Registers in which arguments 1 to 3 are, as x86-64 counts them (rax 0, rcx 1, rdx 2, ...).
    """

    offset: int
    emulated: bool
    instruction: str
    sees_null: bool = True
    pushed_bytes: int = 0
    arguments: tuple[int, int, int] = ABI_ARGUMENTS


class PlacedProbe(NamedTuple):
    """A function and where its probe goes."""

    point: ProbePoint
    placement: Placement

    @property
    def offset(self) -> int:
        """Of the probed instruction in the file, bytes."""
        return self.point.offset + self.placement.offset


def choose_placement(
    code: bytes,
    kind: CallKind,
    emulated: AbstractSet[InstructionClass] = CONSERVATIVE,
    *,
    moved_arguments: bool = False,
    read_outside: ReadOutside | None = None,
) -> Placement:
    """Where the probe of one function goes.

    Args:
        code: The whole function, as far as it is known.
        kind: What is read at the probe, and whether the return is probed from there too: then the return address must
            be on top of the stack.
        emulated: What this kernel emulates; see ``emulation.measure_emulated``.
        moved_arguments: The program can read an argument from another register than the one it was passed in.
        read_outside: Gives code by its distance from the function's first instruction, to look at its cold part.
    """
    entry = _at_entry(code, emulated)
    if entry.emulated and kind not in FREE_KINDS:
        return entry
    walk = _walk_prefix(code, kind, emulated, moved_arguments=moved_arguments)
    for candidate in _by_preference(walk.candidates):
        if candidate.offset == 0 or not _reaches_prefix(code, candidate.offset, read_outside):
            return Placement(
                candidate.offset,
                emulated=True,
                instruction=candidate.instruction,
                sees_null=candidate.sees_null,
                pushed_bytes=candidate.pushed_bytes,
                arguments=candidate.arguments,
            )
    return Placement(0, emulated=entry.emulated, instruction=entry.instruction or walk.entry)


def _at_entry(code: bytes, emulated: AbstractSet[InstructionClass]) -> Placement:
    first = classify(code)
    return Placement(0, emulated=first in emulated, instruction=first.describe(code) if first is not None else "")


def _by_preference(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """First the first place behind the test for NULL, which a free of NULL does not hit; then the first of all."""
    behind = [candidate for candidate in candidates if not candidate.sees_null]
    return [*behind[:1], *candidates[:1]]


def place(
    path: str,
    points: Sequence[ProbePoint],
    emulated: AbstractSet[InstructionClass] = CONSERVATIVE,
    *,
    moved_arguments: bool = False,
    cache: PlacementCache | None = None,
) -> list[PlacedProbe]:
    """Where the probes of an object's functions go; in the order of ``points``.

    Args:
        path: The object's file.
        points: Its functions, from ``families.choose_points``.
        emulated: What this kernel emulates.
        moved_arguments: See ``choose_placement``.
        cache: Asked first, and told; without one everything is worked out anew.

    Raises:
        OSError: The file cannot be opened.
        ElfError: It is no ELF file that can be read, or a function lies outside of it.
    """
    with ElfFile.open(path) as elf:
        if elf.machine != _EM_X86_64:
            return [PlacedProbe(point, Placement(0, emulated=True, instruction="")) for point in points]
        codes = _read_functions(elf, points)
        key = _cache_key(elf.build_id, points, codes, emulated, moved_arguments=moved_arguments)
        cached = cache.find(key) if cache is not None and key else None
        placements = _from_rows(cached, codes) if cached is not None else None
        if placements is None:
            try:
                placements = [
                    choose_placement(
                        code,
                        point.kind,
                        emulated,
                        moved_arguments=moved_arguments,
                        read_outside=_outside_reader(elf, point.offset),
                    )
                    for point, code in zip(points, codes, strict=True)
                ]
            except ImportError:
                # capstone brings a library of its own, which may not load here: costly probes, but right ones.
                placements, key = [_at_entry(code, emulated) for code in codes], ""
            if cache is not None and key:
                cache.store(key, [_to_row(placement) for placement in placements])
    return [PlacedProbe(point, placement) for point, placement in zip(points, placements, strict=True)]


def _read_functions(elf: ElfFile, points: Sequence[ProbePoint]) -> list[bytes]:
    symbols = function_symbols(elf, [point.function for point in points])
    starts = sorted(point.offset for point in points)
    codes = []
    for point in points:
        symbol = symbols.get(point.function)
        is_same = symbol is not None and elf.vaddr_to_offset(symbol.vaddr) == point.offset
        n_bytes = symbol.size if symbol is not None and is_same and symbol.size else _UNSIZED_BYTES
        following = bisect_right(starts, point.offset)
        if following < len(starts):
            n_bytes = min(n_bytes, starts[following] - point.offset)
        n_bytes = min(n_bytes, _MAX_FUNCTION_BYTES, elf.source.size - point.offset)
        codes.append(elf.source.read(point.offset, n_bytes))
    return codes


def _outside_reader(elf: ElfFile, function_offset: int) -> ReadOutside:
    """Reads around a function, within the segment that it lies in."""
    segment = next(
        (each for each in elf.loads if each.flags & PF_X and 0 <= function_offset - each.offset < each.file_bytes), None
    )

    def read_outside(distance: int, n_bytes: int) -> bytes:
        start = function_offset + distance
        if segment is None or not segment.offset <= start < segment.offset + segment.file_bytes:
            return b""
        try:
            return elf.source.read(start, min(n_bytes, segment.offset + segment.file_bytes - start, _MAX_OUTSIDE_BYTES))
        except ElfError:
            return b""

    return read_outside


def _cache_key(
    build_id: str,
    points: Sequence[ProbePoint],
    codes: Sequence[bytes],
    emulated: AbstractSet[InstructionClass],
    *,
    moved_arguments: bool,
) -> str:
    """Empty without a build id. The code is a part of the key: a file that was patched may have kept its build id."""
    if not build_id:
        return ""
    digest = blake2b(digest_size=16)
    digest.update(repr((_VERSION, sorted(emulated), moved_arguments, [tuple(point) for point in points])).encode())
    for code in codes:
        digest.update(len(code).to_bytes(8, "little") + code)
    return f"{build_id}-{digest.hexdigest()}"


def _to_row(placement: Placement) -> list[object]:
    return [
        placement.offset,
        placement.emulated,
        placement.instruction,
        placement.sees_null,
        placement.pushed_bytes,
        list(placement.arguments),
    ]


def _from_rows(rows: Sequence[object], codes: Sequence[bytes]) -> list[Placement] | None:
    """None where the rows are not what ``_to_row`` makes of placements in these functions."""
    placements = []
    if len(rows) != len(codes):
        return None
    for row, code in zip(rows, codes, strict=True):
        match row:
            case [int(offset), bool(emulated), str(text), bool(sees_null), int(pushed), [int(a), int(b), int(c)]] if (
                (offset == 0 or 0 < offset < min(256, len(code)))
                and 0 <= pushed < 256 * 8
                and all(0 <= register < 16 for register in (a, b, c))
            ):
                placements.append(Placement(offset, emulated, text, sees_null, pushed, (a, b, c)))
            case _:
                return None
    return placements


# The straight-line beginning


class _Candidate(NamedTuple):
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
class _Walk:
    """What the walk found: the first instruction as text, and the candidates in order."""

    entry: str = ""
    candidates: list[_Candidate] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    """Registers and stack before an instruction; ``holders`` has for each argument the registers that it is in."""

    holders: list[set[int]]
    pushed_bytes: int = 0
    flags_test_null: bool = False
    behind_null_test: bool = False


def _walk_prefix(
    code: bytes, kind: CallKind, emulated: AbstractSet[InstructionClass], *, moved_arguments: bool = False
) -> _Walk:
    """Walk a function from its entry.

    Args:
        code: The function; what is cut off at its end is not looked at.
        kind: Which arguments must be there; functions that free may have pushed something.
        emulated: What makes a candidate.
        moved_arguments: An argument may have been copied to another register, and its own one overwritten.
    """
    walk, is_free = _Walk(), kind in FREE_KINDS
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
        if found is not None and found in emulated:
            walk.candidates.append(
                _Candidate(
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
    if mnemonic == "sub" and _STACK_ROOM.fullmatch(instruction.op_str):
        n_bytes = int(operands[1].imm)
        state.flags_test_null = False
        state.pushed_bytes += n_bytes
        return n_bytes > 0 and n_bytes % 8 == 0 and state.pushed_bytes <= _MAX_PUSHED_BYTES
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
    from capstone import CS_AC_WRITE
    from capstone.x86 import X86_OP_MEM, X86_OP_REG

    written = {_REGISTERS.get(instruction.reg_name(register), -1) for register in instruction.regs_access()[1]}
    only_reads = instruction.mnemonic in _ONLY_READING
    for place, operand in enumerate(instruction.operands):
        is_target = not only_reads and (place == 0 or operand.access & CS_AC_WRITE)
        if is_target and operand.type == X86_OP_MEM:
            return None
        if is_target and operand.type == X86_OP_REG:
            written.add(_REGISTERS.get(instruction.reg_name(operand.reg), -1))
    return written - {-1}


def _writes_flags(instruction: Any) -> bool:
    from capstone.x86 import X86_REG_EFLAGS

    return X86_REG_EFLAGS in instruction.regs_access()[1] or instruction.mnemonic in ("test", "cmp")


def _decode(code: bytes) -> Iterator[Any]:
    """Instructions with their operands, up to the first bytes that are none."""
    import capstone  # 50 to 75 ms and 10 MB, needed only for a library that is not in the cache

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    yield from disassembler.disasm(code, 0)


# Ways back into it


def _reaches_prefix(code: bytes, last: int, read_outside: ReadOutside | None = None) -> bool:
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
    for place, line in enumerate(lines):
        _, _, mnemonic, operand = line
        if not mnemonic.endswith("jmp") or _target(line) is not None:
            continue
        before = lines[max(0, place - _TABLE_LOOK_BACK) : place]
        if mnemonic != "jmp" or "*" in operand or any("*4]" in line[3] or "*8]" in line[3] for line in before):
            return True
    return False


def _target(line: _Line) -> int | None:
    """Where a relative branch goes, None for any other instruction."""
    _, _, mnemonic, operand = line
    is_branch = mnemonic.rpartition(" ")[2].startswith(("j", "call", "loop"))
    if not is_branch or not _NUMBER.fullmatch(operand):
        return None
    target = int(operand, 0)
    return target - (1 << 64) if target >> 63 else target


def _disassemble(code: bytes, base: int) -> list[_Line]:
    """(distance, length, mnemonic, operands) from the start up to the first bytes that are no instruction."""
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [
        (address - (1 << 64) if address >> 63 else address, size, mnemonic, operand)
        for address, size, mnemonic, operand in disassembler.disasm_lite(code, base % (1 << 64))
    ]
