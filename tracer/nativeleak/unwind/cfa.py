"""Call frame instructions: the programs of ``.eh_frame`` and ``.debug_frame``, run into rules.

Scope: what is needed to go from a frame to its caller: the CFA, fp and the return address. Rules of other registers
are read over. The bytes come from the target's files: what cannot be read raises ``ElfError``, and the work is bounded
by the length of the program.

Source: DWARF 5, sections 6.4.2 and 7.24; the GNU instructions in the LSB Core specification, "DWARF Extensions".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple

from nativeleak.symbols.source import ElfError
from nativeleak.unwind import rules
from nativeleak.unwind.encoding import read_block, read_fixed, read_sleb, read_uleb
from nativeleak.unwind.states import (
    FP,
    FP_LOST,
    RA_ELSEWHERE,
    RA_UNDEFINED,
    UNKNOWN,
    State,
    register_plus,
    rule_word,
    saved_fp,
    special_cfa,
    with_register,
    with_saved,
)

END: Final = 1 << 64
"""End of a program's last row: as far as its function reaches."""

_ALWAYS_KEPT: Final = (rules.SIGNAL, rules.ROOT)

Row = tuple[int, int, int]
"""(start, end, rule): offsets from the function's start; the last row of a program ends at ``END``.

Narrow rows may be missing; else each begins where the one before ends.
"""


class Factors(NamedTuple):
    """Facts of a CIE for its programs.

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


class Machine:
    """Runs programs of one CIE.

    Args:
        factors: Facts of the CIE.
        initial: The CIE's own instructions.
        min_bytes: Shorter rows are left out, except signal frames and roots.

    Raises:
        ElfError: The CIE's own instructions cannot be read.
    """

    def __init__(self, factors: Factors, initial: bytes, min_bytes: int = 1) -> None:
        self._factors = factors
        self._min_bytes = min_bytes
        self._words: dict[tuple[int, int, int, int], dict[int, int]] = {}
        self._initial = self._final = UNKNOWN
        self.has_set_loc = False
        """The last program contained an absolute address, so its rows are valid for no other function."""
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

    # One function with all state in locals: a method an instruction takes twice as long, and the table of libLLVM has
    # to be made in less than a second. What is frequent comes first. ``words`` is kept in step with all but the offset.
    def _execute(self, code: bytes, start: int, address: int) -> list[Row]:  # noqa: C901
        register, offset, special, fp, return_address = state = self._initial
        words = self._words_of(state)
        code_factor, data_factor, is_signal, read_pointer = self._factors
        rows: list[Row] = []
        saved: list[tuple[State, dict[int, int]]] = []
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
                if op == 0x80 | FP:
                    fp = saved_fp(rules.FP_AT_CFA, code[at] * data_factor)
                    words = self._words_of((register, offset, special, fp, return_address))
                at += 1
                continue
            elif op == 0x0C and code[at] < 0x80 and code[at + 1] < 0x80:  # DW_CFA_def_cfa
                register, offset, special = code[at], code[at + 1], 0
                words = self._words_of((register, offset, special, fp, return_address))
                at += 2
                continue
            elif op == 0x0A:  # DW_CFA_remember_state
                saved.append(((register, offset, special, fp, return_address), words))
                continue
            elif op == 0x0B:  # DW_CFA_restore_state
                if not saved:
                    raise ElfError("a state is restored that was not remembered")
                (register, offset, special, fp, return_address), words = saved.pop()
                continue
            elif op == 0:
                continue
            elif op == 0x0D and code[at] < 0x80:  # DW_CFA_def_cfa_register
                register, special = code[at], 0
                words = self._words_of((register, offset, special, fp, return_address))
                at += 1
                continue
            elif op == 0x01:  # DW_CFA_set_loc
                self.has_set_loc = True
                delta, at = read_pointer(code, at, address + at)
                delta -= start + location
            elif op <= 0x04:  # DW_CFA_advance_loc1, 2, 4
                delta, at = read_fixed(code, at, 1 << op - 2)
                delta *= code_factor
            else:
                state = (register, offset, special, fp, return_address)
                state, at = self._rare(op, state, code, at)
                register, offset, special, fp, return_address = state
                words = self._words_of(state)
                continue
            if delta <= 0:
                if delta < 0:
                    raise ElfError("a location goes back")
                continue
            word = words.get(offset)
            if word is None:
                word = words[offset] = rule_word((register, offset, special, fp, return_address), is_signal)
            if word != last:
                if location - row_start >= min_bytes or last in _ALWAYS_KEPT:
                    rows.append((row_start, location, last))
                row_start, last = location, word
            location += delta
        self._final = (register, offset, special, fp, return_address)
        word = rule_word(self._final, is_signal)
        if word != last:
            if location - row_start >= min_bytes or last in _ALWAYS_KEPT:
                rows.append((row_start, location, last))
            row_start = location
        rows.append((row_start, END, word))
        return rows

    def _words_of(self, state: State) -> dict[int, int]:
        """The rules, by offset, of states that differ in nothing else: a place to note what ``rule_word`` says."""
        register, _, special, fp, return_address = state
        key = register, special, fp, return_address
        words = self._words.get(key)
        if words is None:
            words = self._words[key] = {}
        return words

    def _rare(self, op: int, state: State, code: bytes, at: int) -> tuple[State, int]:
        """State and place after an instruction that does not move the location."""
        if op >= 0x80:
            handler = self._on_restore if op >= 0xC0 else self._on_offset
            return handler(state, op & 0x3F, code, at)
        if op not in self._RARE:
            raise ElfError(f"instruction {op:#04x} is not known")
        return self._RARE[op](self, state, code, at)

    def _on_offset(self, state: State, register: int, code: bytes, at: int) -> tuple[State, int]:
        value, at = read_uleb(code, at)
        return with_saved(state, register, value * self._factors.data), at

    def _on_restore(self, state: State, register: int, _: bytes, at: int) -> tuple[State, int]:
        return with_register(state, register, self._initial[3], self._initial[4]), at

    def _on_offset_extended(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return self._on_offset(state, register, code, at)

    def _on_offset_extended_sf(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        value, at = read_sleb(code, at)
        return with_saved(state, register, value * self._factors.data), at

    def _on_negative_offset(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        value, at = read_uleb(code, at)
        return with_saved(state, register, -value * self._factors.data), at

    def _on_restore_extended(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return self._on_restore(state, register, code, at)

    def _on_undefined(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)  # fp is undefined in outermost functions only, where nothing needs it
        return with_register(state, register, 0, RA_UNDEFINED), at

    def _on_same_value(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        return with_register(state, register, 0, RA_ELSEWHERE), at

    def _on_register(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        _, at = read_uleb(code, at)
        return with_register(state, register, FP_LOST, RA_ELSEWHERE), at

    def _on_expression(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        expression, at = read_block(code, at)
        plain = register_plus(expression)
        fp = saved_fp(rules.FP_AT_FP, plain[1]) if plain is not None and plain[0] == FP else FP_LOST
        return with_register(state, register, fp, RA_ELSEWHERE), at

    def _on_val_expression(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        register, at = read_uleb(code, at)
        _, at = read_block(code, at)
        return with_register(state, register, FP_LOST, RA_ELSEWHERE), at

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
        expression, at = read_block(code, at)
        plain = register_plus(expression)
        if plain is not None:
            return (*plain, 0, *state[3:]), at
        return (*state[:2], special_cfa(expression, self._factors.is_signal), *state[3:]), at

    def _on_args_size(self, state: State, code: bytes, at: int) -> tuple[State, int]:
        return state, read_uleb(code, at)[1]

    _RARE: ClassVar[dict[int, Callable[[Machine, State, bytes, int], tuple[State, int]]]] = {
        0x05: _on_offset_extended,
        0x06: _on_restore_extended,
        0x07: _on_undefined,
        0x08: _on_same_value,
        0x09: _on_register,
        0x0C: _on_def_cfa,
        0x0D: _on_def_cfa_register,
        0x0F: _on_def_cfa_expression,
        0x10: _on_expression,
        0x11: _on_offset_extended_sf,
        0x12: _on_def_cfa_sf,
        0x13: _on_def_cfa_offset_sf,
        0x14: _on_register,  # DW_CFA_val_offset: the same operands, as little of use
        0x15: _on_register,  # DW_CFA_val_offset_sf
        0x16: _on_val_expression,
        0x2E: _on_args_size,  # DW_CFA_GNU_args_size
        0x2F: _on_negative_offset,  # DW_CFA_GNU_negative_offset_extended
    }
