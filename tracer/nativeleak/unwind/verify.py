"""Checks return addresses: a call instruction must end there.

Scope: x86-64 and arm64. Each address is read once from the target's memory. After the process has exited no address can
be checked, and all are accepted.
"""

from __future__ import annotations

import os
import platform
from typing import Final

CODE_BYTES: Final = 8
"""Bytes to read before a return address; no call is longer than 7."""
_SIGNAL_RETURN_BYTES: Final = 9
_MAX_KNOWN: Final = 1 << 16


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


def ends_call_arm64(code: bytes) -> bool:
    """Whether a bl or blr ends at the end of these 8 bytes. Source: Arm ARM, C6.2.33 and C6.2.35."""
    word = int.from_bytes(code[4:8], "little")
    return word & 0xFC000000 == 0x94000000 or word & 0xFFFFFC1F == 0xD63F0000


def is_signal_return_x86(code: bytes) -> bool:
    """Whether a signal handler returns to this code: mov $15, %rax; syscall.

    Source: glibc sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c, musl src/signal/x86_64/restore.s; debuggers and
    libgcc recognise it by these bytes too.
    """
    return code.startswith(b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05")


def is_signal_return_arm64(code: bytes) -> bool:
    """The same: mov x8, #139; svc #0. Source: arch/arm64/kernel/vdso/sigreturn.S."""
    return code.startswith(b"\x68\x11\x80\xd2\x01\x00\x00\xd4")


class ReturnAddresses:
    """Return addresses of one process, checked against its code. A context manager: it keeps /proc/PID/mem open."""

    def __init__(self, pid: int) -> None:
        is_arm = platform.machine() == "aarch64"
        self._ends_call = ends_call_arm64 if is_arm else ends_call_x86
        self._is_signal_return = is_signal_return_arm64 if is_arm else is_signal_return_x86
        self._known: dict[int, bool] = {}
        self._signal_returns: dict[int, bool] = {}
        try:
            self._fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def close(self) -> None:
        """Close the target's memory; every address is accepted from then on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_plausible(self, address: int) -> bool:
        """Whether a call may return here; True if the code cannot be read."""
        known = self._known.get(address)
        if known is None:
            code = self._read(address - CODE_BYTES, CODE_BYTES)
            if code is None:
                return True
            known = self._known[address] = self._ends_call(code)
        return known

    def is_signal_return(self, address: int) -> bool:
        """Whether a signal handler returns here: no call is before it. False if the code cannot be read."""
        known = self._signal_returns.get(address)
        if known is None:
            code = self._read(address, _SIGNAL_RETURN_BYTES)
            if code is None:
                return False
            known = self._signal_returns[address] = self._is_signal_return(code)
        return known

    def _read(self, address: int, n_bytes: int) -> bytes | None:
        if self._fd < 0:
            return None
        try:
            code = os.pread(self._fd, n_bytes, address)
        except (OSError, OverflowError, ValueError):
            return None
        for known in (self._known, self._signal_returns):
            if len(known) >= _MAX_KNOWN:
                known.clear()
        return code if len(code) == n_bytes else None
