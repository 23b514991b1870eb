"""What depends on the machine: one row for each that nativeleak knows.

Scope: facts and tests of a few bytes. Code that decodes instructions says in its module which machine it is for, and
asks the row whether that is the one at hand.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_MASK_64: Final = (1 << 64) - 1
CALL_BYTES: Final = 8
"""Bytes before a return address that ``Machine.ends_call`` takes: no call is longer than 7."""
SIGNAL_RETURN_BYTES: Final = 9
"""Bytes at a return address that ``Machine.is_signal_return`` takes."""
STUB_BYTES: Final = 12
"""Bytes at the target of a call that ``Machine.jump_slot`` takes."""


class Called(NamedTuple):
    """What a call instruction names: the function, or the place in memory that holds its address."""

    address: int
    is_slot: bool


def _never(_: bytes) -> bool:
    return False


def _no_call(_code: bytes, _end: int) -> Called | None:
    return None


def _no_slot(_code: bytes, _start: int) -> int | None:
    return None


def _always(_: bytes) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. The defaults are those of a machine of which only the name is known.

    Attributes:
        name: As ``uname -m`` prints it.
        label: For people.
        elf_machine: ``e_machine`` of its ELF files; -1: not known.
        kernel_name: Its folder under arch/ of the kernel's sources; empty: not known.
        syscalls: Numbers of the system calls that nativeleak makes by number.
        has_tables: The BPF programs walk stacks by unwind tables, which are made from its call frame information.
        decodes: Its instructions are decoded here: probes need not be placed at the entry of a function.
        has_kernel_stack_registers: The BPF programs find a task's registers at the end of its kernel stack.
        arguments: Registers of arguments 1 to 3, as its instructions count them.
        dwarf_fp: DWARF's number of the frame pointer.
        dwarf_sp: DWARF's number of the stack pointer.
        dwarf_return_address: DWARF's number of the return address.
        capstone: Names of capstone's constants for architecture and mode; empty: not decoded.
        breakpoint: What a probe puts in the place of an instruction.
        ends_call: Whether a call instruction ends at the end of ``CALL_BYTES`` bytes; True where it is not known.
        is_signal_return: Whether these ``SIGNAL_RETURN_BYTES`` bytes are what a signal handler returns to.
        called: What the call names that ends at the end of ``CALL_BYTES`` bytes, given the address of their end; None
            where a register tells.
        jump_slot: Where the address is that code jumps to at once, as stubs of the linker do, given its first
            ``STUB_BYTES`` bytes and their address; None of any other code.
    """

    name: str
    label: str = ""
    elf_machine: int = -1
    kernel_name: str = ""
    syscalls: Mapping[str, int] = field(default_factory=dict)
    has_tables: bool = False
    decodes: bool = False
    has_kernel_stack_registers: bool = False
    arguments: tuple[int, int, int] = (0, 1, 2)
    dwarf_fp: int = -1
    dwarf_sp: int = -1
    dwarf_return_address: int = -1
    capstone: tuple[str, str] = ("", "")
    breakpoint: bytes = b""
    ends_call: Callable[[bytes], bool] = _always
    is_signal_return: Callable[[bytes], bool] = _never
    called: Callable[[bytes, int], Called | None] = _no_call
    jump_slot: Callable[[bytes, int], int | None] = _no_slot


def ends_call_x86(code: bytes) -> bool:
    """Whether a call instruction ends at the end of these 8 bytes.

    Source: Intel SDM vol. 2, CALL and table 2-2: e8 rel32; ff /2 with the operand's length by its ModRM byte. A REX or
    segment prefix stands before the opcode and changes nothing here.
    """
    if code[3] == 0xE8:
        return True
    for n in range(2, 8):
        if code[-n] == 0xFF and code[1 - n] & 0x38 == 0x10 and _operand_bytes(code[1 - n], code[2 - n :]) == n - 2:
            return True
    return False


def _operand_bytes(modrm: int, rest: bytes) -> int:
    """Bytes after a ModRM byte: SIB and displacement."""
    mode, register = modrm >> 6, modrm & 7
    if mode == 3:
        return 0
    n = 0
    if register == 4:
        n = 1
        if mode == 0 and rest and rest[0] & 7 == 5:
            return 5
    elif mode == 0 and register == 5:
        return 4
    return n + (0, 1, 4)[mode]


def called_x86(code: bytes, end: int) -> Called | None:
    """What a call names, by these 8 bytes before ``end``. Source: Intel SDM vol. 2, CALL: e8 rel32, ff 15 disp32."""
    address = end + int.from_bytes(code[4:8], "little", signed=True)
    is_slot = code[2:4] == b"\xff\x15"
    if code[3] == 0xE8 or is_slot:
        return Called(address & _MASK_64, is_slot)
    return None


def jump_slot_x86(code: bytes, start: int) -> int | None:
    """Where a stub finds what it jumps to: endbr64 and bnd may stand before ff 25 disp32.

    Source: System V ABI for x86-64, "Procedure Linkage Table"; binutils bfd/elfxx-x86.c for the variants.
    """
    at = 4 if code.startswith(b"\xf3\x0f\x1e\xfa") else 0
    at += code[at : at + 1] == b"\xf2"
    if code[at : at + 2] != b"\xff\x25" or len(code) < at + 6:
        return None
    return (start + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)) & _MASK_64


def called_arm64(code: bytes, end: int) -> Called | None:
    """The same for arm64: bl imm26. Source: Arm ARM, C6.2.33."""
    word = int.from_bytes(code[4:8], "little")
    if word & 0xFC000000 != 0x94000000:
        return None
    words = (word & 0x03FFFFFF) - (word << 1 & 0x04000000)
    return Called((end - 4 + 4 * words) & _MASK_64, is_slot=False)


def ends_call_arm64(code: bytes) -> bool:
    """Whether a bl or blr ends at the end of these 8 bytes. Source: Arm ARM, C6.2.33 and C6.2.35."""
    word = int.from_bytes(code[4:8], "little")
    return word & 0xFC000000 == 0x94000000 or word & 0xFFFFFC1F == 0xD63F0000


def is_signal_return_x86(code: bytes) -> bool:
    """Whether a signal handler returns to this code: mov $15, %rax; syscall.

    Source: glibc sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c, musl src/signal/x86_64/restore.s; debuggers and
    libgcc know it by these bytes too.
    """
    return code.startswith(b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05")


def is_signal_return_arm64(code: bytes) -> bool:
    """The same for arm64: mov x8, #139; svc #0. Source: arch/arm64/kernel/vdso/sigreturn.S."""
    return code.startswith(b"\x68\x11\x80\xd2\x01\x00\x00\xd4")


# Sources: elf.h; arch/x86/entry/syscalls/syscall_64.tbl; System V ABI for x86-64, table "DWARF Register Number
# Mapping"; Intel SDM vol. 2, table 3-1, for the registers of arguments (rdi, rsi, rdx).
X86_64: Final = Machine(
    name="x86_64",
    label="x86-64",
    elf_machine=62,
    kernel_name="x86",
    syscalls={"bpf": 321, "membarrier": 324, "perf_event_open": 298},
    has_tables=True,
    decodes=True,
    has_kernel_stack_registers=True,
    arguments=(7, 6, 2),
    dwarf_fp=6,
    dwarf_sp=7,
    dwarf_return_address=16,
    capstone=("CS_ARCH_X86", "CS_MODE_64"),
    breakpoint=b"\xcc",
    ends_call=ends_call_x86,
    is_signal_return=is_signal_return_x86,
    called=called_x86,
    jump_slot=jump_slot_x86,
)

# Sources: elf.h; include/uapi/asm-generic/unistd.h; DWARF for the Arm 64-bit Architecture, 4.1;
# arch/arm64/include/asm/debug-monitors.h (BRK64_OPCODE_UPROBES, brk #5) for the breakpoint.
ARM64: Final = Machine(
    name="aarch64",
    label="arm64",
    elf_machine=183,
    kernel_name="arm64",
    syscalls={"bpf": 280, "membarrier": 283, "perf_event_open": 241},
    arguments=(0, 1, 2),
    dwarf_fp=29,
    dwarf_sp=31,
    dwarf_return_address=30,
    breakpoint=b"\xa0\x00\x20\xd4",
    ends_call=ends_call_arm64,
    is_signal_return=is_signal_return_arm64,
    called=called_arm64,
)

MACHINES: Final = (X86_64, ARM64)


def by_name(name: str) -> Machine:
    """The row of a machine, or one that knows its name alone."""
    return next((machine for machine in MACHINES if machine.name == name), Machine(name, label=name))


def by_elf(elf_machine: int) -> Machine | None:
    """The row of an ELF file's machine; None for all others."""
    return next((machine for machine in MACHINES if machine.elf_machine == elf_machine), None)


@functools.cache
def here() -> Machine:
    """The machine that this process runs on."""
    return by_name(platform.machine())
