"""State of a frame after call frame instructions, and the rule that follows from it.

Scope: the CFA, fp and the return address; the few expressions that compilers, linkers and glibc write.

Source: DWARF 5, section 2.5, for the expressions. DWARF's numbers of the registers are in the psABI for x86-64, table
"DWARF Register Number Mapping".
"""

from __future__ import annotations

from typing import Final

from nativeleak.arch import X86_64
from nativeleak.unwind import rules
from nativeleak.unwind.encoding import read_sleb, read_uleb

# Tables are made for x86-64 only; so these are its numbers.
FP: Final = X86_64.dwarf_fp
SP: Final = X86_64.dwarf_sp
RETURN_ADDRESS: Final = X86_64.dwarf_return_address

# States of the return address.
RA_AT_CFA_8, RA_UNDEFINED, RA_ELSEWHERE = range(3)
FP_LOST: Final = -1
"""fp was saved in a way that no rule can tell."""

# DW_OP_breg7 8; DW_OP_breg16 0; lit15; and; [litN]; ge; lit3; shl; plus: what linkers write for .plt.
_PLT_HEAD, _PLT_TAIL = bytes.fromhex("7708 8000 3f1a"), bytes.fromhex("2a33 2422")
# DW_OP_breg7 160; DW_OP_deref: sp in the ucontext of a signal frame (glibc, sigaction.c).
_SIGNAL_CFA: Final = bytes.fromhex("77a001 06")
_OP_DEREF, _OP_PLUS_UCONST, _OP_LIT0, _OP_LIT31, _OP_BREG6 = 0x06, 0x23, 0x30, 0x4F, 0x76

State = tuple[int, int, int, int, int]
"""What the instructions have said so far: (register, offset, special, fp, return address).

The CFA is ``register`` (DWARF's number) plus ``offset``, unless ``special`` is not 0: then an expression gives it, and
this is the kind and the off field of the rule's word. ``fp`` is the two fp fields of the word, or ``FP_LOST``.
"""

UNKNOWN: Final[State] = (-1, 0, 0, 0, RA_ELSEWHERE)


def with_register(state: State, register: int, fp: int, return_address: int) -> State:
    """The state after a rule for one register was given: what it amounts to for fp, for the return address."""
    if register == FP:
        return (*state[:3], fp, state[4])
    if register == RETURN_ADDRESS:
        return (*state[:4], return_address)
    return state


def with_saved(state: State, register: int, offset: int) -> State:
    """The state after a register was saved at CFA + offset."""
    fp = saved_fp(rules.FP_AT_CFA, offset)
    return with_register(state, register, fp, RA_AT_CFA_8 if offset == -8 else RA_ELSEWHERE)


def saved_fp(rule: int, offset: int) -> int:
    """The fp fields of a rule's word."""
    return rule << 8 | (offset & 0xFFFF) << 16 if -0x8000 <= offset < 0x8000 else FP_LOST


def rule_word(state: State, is_signal: bool) -> int:
    """The word of the rule for a state."""
    register, offset, special, fp, return_address = state
    if is_signal and special == rules.SIGNAL:
        return rules.SIGNAL
    if return_address == RA_UNDEFINED:
        return rules.ROOT
    if return_address == RA_ELSEWHERE or fp == FP_LOST or special == rules.BAD:
        return rules.BAD
    if special:
        return special | fp
    if register not in (SP, FP):
        return rules.BAD
    word = rules.pack_rule(rules.KIND_SP if register == SP else rules.KIND_FP, offset)
    return word if word == rules.BAD else word | fp


def register_plus(expression: bytes) -> tuple[int, int] | None:
    """(register, offset) of an expression that is fp or sp plus a constant and nothing else."""
    if expression[:1] not in (b"\x76", b"\x77"):
        return None
    offset, end = read_sleb(expression, 1)
    return (expression[0] - _OP_BREG6 + FP, offset) if end == len(expression) else None


def special_cfa(expression: bytes, is_signal: bool) -> int:
    """Kind and off field for the other expressions that compilers, linkers and glibc write for a CFA."""
    if is_signal and expression == _SIGNAL_CFA:
        return rules.SIGNAL
    head, tail = len(_PLT_HEAD), len(_PLT_HEAD) + 1
    if expression[:head] == _PLT_HEAD and expression[tail:] == _PLT_TAIL:
        if _OP_LIT0 <= expression[head] <= _OP_LIT31:
            return rules.pack_rule(rules.KIND_PLT, expression[head] - _OP_LIT0)
    elif expression[:1] == bytes([_OP_BREG6]):
        displacement, at = read_sleb(expression, 1)
        off = rules.at_fp_off(displacement, _addend(expression, at))
        if off is not None:
            return rules.pack_rule(rules.KIND_AT_FP, off)
    return rules.BAD


def _addend(expression: bytes, at: int) -> int:
    """N of ``DW_OP_deref; DW_OP_plus_uconst N`` at a place, 0 for ``DW_OP_deref`` alone, -1 for anything else."""
    if expression[at:] == bytes([_OP_DEREF]):
        return 0
    if expression[at : at + 2] != bytes([_OP_DEREF, _OP_PLUS_UCONST]):
        return -1
    addend, end = read_uleb(expression, at + 2)
    return addend if end == len(expression) else -1
