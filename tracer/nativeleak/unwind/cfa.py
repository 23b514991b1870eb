"""Call frame instructions: the programs of ``.eh_frame`` and ``.debug_frame``, run into rules.

Scope: what is needed to go from a frame to its caller: the CFA, rbp and the return address. Rules of other registers are
read over. The bytes come from the target's files: what cannot be read raises ``ElfError``, and the work is bounded by
the length of the program.

Source: DWARF 5, sections 6.4.2 and 7.24; the GNU instructions in the LSB Core specification, "DWARF Extensions". DWARF's
numbers of the registers are in the psABI for x86-64, table "DWARF Register Number Mapping".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from nativeleak.symbols.source import ElfError
from nativeleak.unwind import rules

RBP: Final = 6
RSP: Final = 7
RETURN_ADDRESS: Final = 16
WORD_MASK: Final = (1 << 64) - 1
END: Final = 1 << 64
"""End of a program's last row: as far as its function reaches."""

_MAX_LEB_BYTES: Final = 10
_MAX_OFFSET: Final = 0x7FFF_FFFF
_ALWAYS_KEPT: Final = (rules.SIGNAL, rules.ROOT)

# States of the return address.
_RA_AT_CFA_8, _RA_UNDEFINED, _RA_ELSEWHERE = range(3)
_RBP_LOST: Final = -1
"""rbp was saved in a way that no rule can tell."""

# DW_OP_breg7 8; DW_OP_breg16 0; lit15; and; [litN]; ge; lit3; shl; plus: what linkers write for .plt.
_PLT_HEAD, _PLT_TAIL = bytes.fromhex("7708 8000 3f1a"), bytes.fromhex("2a33 2422")
# DW_OP_breg7 160; DW_OP_deref: rsp in the ucontext of a signal frame (glibc, sigaction.c).
_SIGNAL_CFA: Final = bytes.fromhex("77a001 06")
_OP_DEREF, _OP_PLUS_UCONST, _OP_LIT0, _OP_LIT31, _OP_BREG6 = 0x06, 0x23, 0x30, 0x4F, 0x76

Row = tuple[int, int, int]
"""(start, end, rule): offsets from the function's start; the last row of a program ends at ``END``. Narrow ones may be missing."""


State = tuple[int, int, int, int, int]
"""What the instructions have said so far: (register, offset, special, rbp, return address).

The CFA is ``register`` (DWARF's number) plus ``offset``, unless ``special`` is not 0: then an expression gives it, and
this is the kind and the off field of the rule's word. ``rbp`` is the two rbp fields of the word, or ``_RBP_LOST``.
"""

_UNKNOWN: Final[State] = (-1, 0, 0, 0, _RA_ELSEWHERE)


class Factors(NamedTuple):
    """What a CIE says of the programs that belong to it.

    Attributes:
        code: Factor of advances.
        data: Factor of offsets.
        is_signal: The functions are signal frames.
        read_pointer: Reads an address as this CIE encodes them: (bytes, place, address of the place) -> value, end.
    """

    code: int
    data: int
    is_signal: bool
    read_pointer: Callable[[bytes, int, int], tuple[int, int]]


def read_uleb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the place after it.

    Raises:
        ElfError: It is longer than 64 bits need.
        IndexError: It runs over the end of ``data``.
    """
    value = shift = 0
    for place in range(at, at + _MAX_LEB_BYTES):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ElfError("a number has more than 64 bits")


def read_sleb(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number and the place after it.

    Raises:
        ElfError: It is longer than 64 bits need.
        IndexError: It runs over the end of ``data``.
    """
    value, end = read_uleb(data, at)
    n_bits = 7 * (end - at)
    return (value - (1 << n_bits) if value >> n_bits - 1 else value), end


class Machine:
    """Runs programs of one CIE.

    Args:
        factors: What the CIE says.
        initial: The CIE's own instructions.
        min_bytes: Rows of fewer bytes are left out, but for signal frames and roots.

    Raises:
        ElfError: The CIE's own instructions cannot be read.
    """

    def __init__(self, factors: Factors, initial: bytes, min_bytes: int = 1) -> None:
        self._factors = factors
        self._min_bytes = min_bytes
        self._initial = self._final = _UNKNOWN
        self.has_set_loc = False
        """The last program contained an absolute address: its rows hold for no other function."""
        if len(self.run(initial, 0, 0)) > 1:
            raise ElfError("a CIE advances its location")
        self._initial = self._final

    def run(self, code: bytes, start: int, address: int) -> tuple[Row, ...]:
        """Rows of one function; neighbours differ in their rule.

        Args:
            code: The FDE's instructions.
            start: Address of the function.
            address: Address of ``code``.

        Raises:
            ElfError: They cannot be read.
        """
        self.has_set_loc = False
        try:
            return tuple(self._execute(code, start, address))
        except IndexError:
            raise ElfError("an instruction is cut off") from None

    # One function with all state in locals: a method an instruction takes twice as long, and the table of libLLVM has to
    # be made in less than a second. What is frequent comes first. ``base`` is the rule without its offset.
    def _execute(self, code: bytes, start: int, address: int) -> list[Row]:  # noqa: C901
        register, offset, special, rbp, return_address = state = self._initial
        base = _base(state, self._factors.is_signal)
        code_factor, data_factor, is_signal, read_pointer = self._factors
        rows: list[Row] = []
        saved: list[tuple[State, int]] = []
        size, at, location, row_start, last, min_bytes = len(code), 0, 0, 0, -1, self._min_bytes
        while at < size:
            op = code[at]
            at += 1
            if 0x40 <= op < 0x80:  # DW_CFA_advance_loc
                delta = (op & 0x3F) * code_factor
            elif op == 0x0E:  # DW_CFA_def_cfa_offset
                offset = code[at]
                at += 1
                if offset >= 0x80:
                    offset, at = read_uleb(code, at - 1)
                continue
            elif 0x80 < op < 0x90 and code[at] < 0x80:  # DW_CFA_offset, of the general registers
                if op == 0x80 | RBP:
                    rbp = _saved_rbp(rules.RBP_AT_CFA, code[at] * data_factor)
                    base = _base((register, offset, special, rbp, return_address), is_signal)
                at += 1
                continue
            elif op == 0x0A:  # DW_CFA_remember_state
                saved.append(((register, offset, special, rbp, return_address), base))
                continue
            elif op == 0x0B:  # DW_CFA_restore_state
                if not saved:
                    raise ElfError("a state is restored that was not remembered")
                (register, offset, special, rbp, return_address), base = saved.pop()
                continue
            elif op == 0:
                continue
            elif op == 0x01:  # DW_CFA_set_loc
                self.has_set_loc = True
                delta, at = read_pointer(code, at, address + at)
                delta -= start + location
            elif op <= 0x04:  # DW_CFA_advance_loc1, 2, 4
                delta, at = _read_fixed(code, at, 1 << op - 2)
                delta *= code_factor
            else:
                state = (register, offset, special, rbp, return_address)
                state, at = self._rare(op, state, code, at)
                register, offset, special, rbp, return_address = state
                base = _base(state, is_signal)
                continue
            if delta <= 0:
                if delta < 0:
                    raise ElfError("a location goes back")
                continue
            if base < 0 or not 0 <= offset <= _MAX_OFFSET:
                word = _word((register, offset, special, rbp, return_address), is_signal)
            else:
                word = base | offset << 32
            if word != last:
                if location - row_start >= min_bytes or last in _ALWAYS_KEPT:
                    rows.append((row_start, location, last))
                row_start, last = location, word
            location += delta
        self._final = (register, offset, special, rbp, return_address)
        word = _word(self._final, is_signal)
        if word != last:
            if location - row_start >= min_bytes or last in _ALWAYS_KEPT:
                rows.append((row_start, location, last))
            row_start = location
        rows.append((row_start, END, word))
        return rows

    def _rare(self, op: int, state: State, code: bytes, at: int) -> tuple[State, int]:
        """State and place after an instruction that does not move the location."""
        if op >= 0x80:
            handler = self._on_restore if op >= 0xC0 else self._on_offset
            return handler(state, op & 0x3F, code, at)
        if op not in _RARE:
            raise ElfError(f"instruction {op:#04x} is not known")
        return _RARE[op](self, state, code, at)

    def _on_offset(self, state: State, register: int, code: bytes, at: int) -> tuple[State, int]:
        value, at = read_uleb(code, at)
        return _with_saved(state, register, value * self._factors.data), at

    def _on_restore(self, state: State, register: int, _: bytes, at: int) -> tuple[State, int]:
        return _with_register(state, register, self._initial[3], self._initial[4]), at

    def _on_offset_extended(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return self._on_offset(state, register, code, at)

    def _on_offset_extended_sf(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        value, at = read_sleb(code, at)
        return _with_saved(state, register, value * self._factors.data), at

    def _on_negative_offset(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        value, at = read_uleb(code, at)
        return _with_saved(state, register, -value * self._factors.data), at

    def _on_restore_extended(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return self._on_restore(state, register, code, at)

    def _on_undefined(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)  # rbp is undefined in outermost functions only, where nothing needs it
        return _with_register(state, register, 0, _RA_UNDEFINED), at

    def _on_same_value(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return _with_register(state, register, 0, _RA_ELSEWHERE), at

    def _on_register(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        _, at = read_uleb(code, at)
        return _with_register(state, register, _RBP_LOST, _RA_ELSEWHERE), at

    def _on_expression(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        expression, at = _read_block(code, at)
        plain = _breg(expression)
        rbp = _saved_rbp(rules.RBP_AT_RBP, plain[1]) if plain is not None and plain[0] == RBP else _RBP_LOST
        return _with_register(state, register, rbp, _RA_ELSEWHERE), at

    def _on_val_expression(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        _, at = _read_block(code, at)
        return _with_register(state, register, _RBP_LOST, _RA_ELSEWHERE), at

    def _on_def_cfa(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        offset, at = read_uleb(code, at)
        return (register, offset, 0, *state[3:]), at

    def _on_def_cfa_sf(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        value, at = read_sleb(code, at)
        return (register, value * self._factors.data, 0, *state[3:]), at

    def _on_def_cfa_register(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return (register, state[1], 0, *state[3:]), at

    def _on_def_cfa_offset_sf(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        value, at = read_sleb(code, at)
        return (state[0], value * self._factors.data, *state[2:]), at

    def _on_def_cfa_expression(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        expression, at = _read_block(code, at)
        plain = _breg(expression)
        if plain is not None:
            return (*plain, 0, *state[3:]), at
        return (*state[:2], _special_cfa(expression, self._factors.is_signal), *state[3:]), at

    def _on_args_size(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        return state, read_uleb(code, at)[1]


_RARE: Final[dict[int, Callable[[Machine, State, bytes, int], tuple[State, int]]]] = {
    0x05: Machine._on_offset_extended,
    0x06: Machine._on_restore_extended,
    0x07: Machine._on_undefined,
    0x08: Machine._on_same_value,
    0x09: Machine._on_register,
    0x0C: Machine._on_def_cfa,
    0x0D: Machine._on_def_cfa_register,
    0x0F: Machine._on_def_cfa_expression,
    0x10: Machine._on_expression,
    0x11: Machine._on_offset_extended_sf,
    0x12: Machine._on_def_cfa_sf,
    0x13: Machine._on_def_cfa_offset_sf,
    0x14: Machine._on_register,  # DW_CFA_val_offset: the same operands, as little of use
    0x15: Machine._on_register,  # DW_CFA_val_offset_sf
    0x16: Machine._on_val_expression,
    0x2E: Machine._on_args_size,  # DW_CFA_GNU_args_size
    0x2F: Machine._on_negative_offset,  # DW_CFA_GNU_negative_offset_extended
}


def _read_fixed(code: bytes, at: int, n_bytes: int) -> tuple[int, int]:
    if at + n_bytes > len(code):
        raise ElfError("an instruction is cut off")
    return int.from_bytes(code[at : at + n_bytes], "little"), at + n_bytes


def _read_block(code: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_uleb(code, at)
    if at + size > len(code):
        raise ElfError("an expression is cut off")
    return code[at : at + size], at + size


def _with_register(state: State, register: int, rbp: int, return_address: int) -> State:
    """The state after a rule for one register was given: what it amounts to for rbp, for the return address."""
    if register == RBP:
        return (*state[:3], rbp, state[4])
    if register == RETURN_ADDRESS:
        return (*state[:4], return_address)
    return state


def _with_saved(state: State, register: int, offset: int) -> State:
    """The state after a register was saved at CFA + offset."""
    rbp = _saved_rbp(rules.RBP_AT_CFA, offset)
    return _with_register(state, register, rbp, _RA_AT_CFA_8 if offset == -8 else _RA_ELSEWHERE)


def _saved_rbp(rule: int, offset: int) -> int:
    """The rbp fields of a rule's word."""
    return rule << 8 | (offset & 0xFFFF) << 16 if -0x8000 <= offset < 0x8000 else _RBP_LOST


def _base(state: State, is_signal: bool) -> int:
    """The word without its off field where the CFA is rsp or rbp plus something, -1 for all other states."""
    register, _, special, rbp, return_address = state
    if special or is_signal or rbp == _RBP_LOST or return_address != _RA_AT_CFA_8:
        return -1
    return (rules.KIND_RSP | rbp) if register == RSP else (rules.KIND_RBP | rbp) if register == RBP else -1


def _word(state: State, is_signal: bool) -> int:
    """The word of the rule that a state amounts to."""
    register, offset, special, rbp, return_address = state
    if is_signal and special == rules.SIGNAL:
        return rules.SIGNAL
    if return_address == _RA_UNDEFINED:
        return rules.ROOT
    if return_address == _RA_ELSEWHERE or rbp == _RBP_LOST or special == rules.BAD:
        return rules.BAD
    if special:
        return special | rbp
    if register not in (RSP, RBP):
        return rules.BAD
    word = rules.pack_rule(rules.KIND_RSP if register == RSP else rules.KIND_RBP, offset)
    return word if word == rules.BAD else word | rbp


def _breg(expression: bytes) -> tuple[int, int] | None:
    """(register, offset) of an expression that is rbp or rsp plus a constant and nothing else."""
    if expression[:1] not in (b"\x76", b"\x77"):
        return None
    offset, end = read_sleb(expression, 1)
    return (expression[0] - _OP_BREG6 + RBP, offset) if end == len(expression) else None


def _special_cfa(expression: bytes, is_signal: bool) -> int:
    """Kind and off field for the other expressions that compilers, linkers and glibc write for a CFA."""
    if is_signal and expression == _SIGNAL_CFA:
        return rules.SIGNAL
    head, tail = len(_PLT_HEAD), len(_PLT_HEAD) + 1
    if expression[:head] == _PLT_HEAD and expression[tail:] == _PLT_TAIL:
        if _OP_LIT0 <= expression[head] <= _OP_LIT31:
            return rules.pack_rule(rules.KIND_PLT, expression[head] - _OP_LIT0)
    elif expression[:1] == bytes([_OP_BREG6]):
        displacement, at = read_sleb(expression, 1)
        off = rules.at_rbp_off(displacement, _addend(expression, at))
        if off is not None:
            return rules.pack_rule(rules.KIND_AT_RBP, off)
    return rules.BAD


def _addend(expression: bytes, at: int) -> int:
    """N of ``DW_OP_deref; DW_OP_plus_uconst N`` at a place, 0 for ``DW_OP_deref`` alone, -1 for anything else."""
    if expression[at:] == bytes([_OP_DEREF]):
        return 0
    if expression[at : at + 2] != bytes([_OP_DEREF, _OP_PLUS_UCONST]):
        return -1
    addend, end = read_uleb(expression, at + 2)
    return addend if end == len(expression) else -1
