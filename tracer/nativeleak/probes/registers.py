"""General registers of x86-64 by number and by name.

Source: Intel SDM vol. 2, table 3-1, for the numbers; System V ABI 3.2 for what callees keep.
"""

from __future__ import annotations

from typing import Final

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
N_REGISTERS: Final = 16

_NAMES_BY_WIDTH: Final = (
    "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15",
    "eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d",
    "ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w",
    "al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b",
    "ah ch dh bh",
)

NAMES: Final = tuple(_NAMES_BY_WIDTH[0].split())
"""Names of whole registers, by number."""
BY_NAME: Final = {name: n for names in _NAMES_BY_WIDTH for n, name in enumerate(names.split())}
"""Number of the register that a name, of whatever width, is a part of."""
WHOLE: Final = {name: n for n, name in enumerate(NAMES)}
"""Names of 64 bits only."""
