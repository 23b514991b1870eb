"""Unwind rules: how the caller's sp, fp and return address follow from the frame's own.

Here fp is the frame pointer (rbp on x86-64) and sp the stack pointer (rsp).

Scope: the 64-bit word of a rule, as the BPF side reads it. Little end first: bits 0-7 kind, 8-15 where fp was
saved, 16-31 offset of that place (signed), 32-63 offset of the CFA (signed). The return address lies at CFA - 8: a
frame without that property cannot be expressed. The BPF side has the same numbers; a change of any of them is a
change of ``pack.FORMAT_VERSION``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KIND_NONE: Final = 0
"""No CFI covers the address. The whole word is 0."""
KIND_SP: Final = 1
"""CFA = sp + off."""
KIND_FP: Final = 2
"""CFA = fp + off."""
KIND_AT_FP: Final = 3
"""CFA = *(fp + displacement) + addend: the function realigned its stack. See ``at_fp_off``."""
KIND_SIGNAL: Final = 5
"""A signal frame: the registers are in the ucontext at sp."""
KIND_ROOT: Final = 6
"""The return address is undefined: the outermost frame."""
KIND_PLT: Final = 7
"""A lazy PLT entry: CFA = sp + 8, plus 8 where the low four bits of pc have reached off."""
KIND_GO: Final = 8
"""A call from Go into C: at sp + off is the depth of the caller's stack, behind it the goroutine, whose word at 8 is
the end of that stack. CFA = end - depth + 8; without a goroutine depth + 8."""
KIND_BAD: Final = 9
"""CFI is there but says more than a rule can."""

FP_SAME: Final = 0
FP_AT_CFA: Final = 1
"""fp was saved at CFA + fp_off."""
FP_AT_FP: Final = 2
"""fp was saved at fp + fp_off."""

NONE: Final = KIND_NONE
BAD: Final = KIND_BAD
ROOT: Final = KIND_ROOT
SIGNAL: Final = KIND_SIGNAL


class Rule(NamedTuple):
    """One rule, unpacked."""

    kind: int
    off: int = 0
    fp_rule: int = FP_SAME
    fp_off: int = 0


def pack_rule(kind: int, off: int = 0, fp_rule: int = FP_SAME, fp_off: int = 0) -> int:
    """The word of a rule; ``BAD`` if an offset does not fit its field."""
    if not -0x8000_0000 <= off < 0x8000_0000 or not -0x8000 <= fp_off < 0x8000:
        return BAD
    return kind | fp_rule << 8 | (fp_off & 0xFFFF) << 16 | (off & 0xFFFF_FFFF) << 32


def unpack_rule(word: int) -> Rule:
    """The fields of a rule's word."""
    return Rule(word & 0xFF, _signed(word >> 32, 32), word >> 8 & 0xFF, _signed(word >> 16, 16))


def at_fp_off(displacement: int, addend: int) -> int | None:
    """The off field of ``KIND_AT_FP``: displacement in the low 16 bits, addend above; None if they do not fit.

    Args:
        displacement: Offset from fp to the saved address, signed 16 bits.
        addend: What is added to the saved address, 0-255.
    """
    if not -0x8000 <= displacement < 0x8000 or not 0 <= addend <= 0xFF:
        return None
    return displacement & 0xFFFF | addend << 16


def split_at_fp_off(off: int) -> tuple[int, int]:
    """Displacement and addend of the off field of ``KIND_AT_FP``."""
    return _signed(off, 16), off >> 16 & 0xFF


def _signed(value: int, n_bits: int) -> int:
    sign = 1 << n_bits - 1
    return (value & (sign << 1) - 1 ^ sign) - sign
