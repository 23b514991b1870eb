"""Checks return addresses: a call instruction must end there. Tells what that call names.

Scope: the machines of ``arch.py``. Each address is read once from the target's memory; a process that is gone confirms
nothing and refutes nothing.
"""

from __future__ import annotations

import os
from typing import Final

from nativeleak import arch
from nativeleak.arch import CALL_BYTES, SIGNAL_RETURN_BYTES, STUB_BYTES, Called

_MAX_KNOWN: Final = 1 << 16
_POINTER_BYTES: Final = 8


class ReturnAddresses:
    """Return addresses of one process, checked against its code. A context manager: it keeps /proc/PID/mem open.

    Attributes:
        originals: Address of each breakpoint of ours at a call instruction -> the byte of the program that it hides.
    """

    def __init__(self, pid: int) -> None:
        machine = arch.here()
        self._machine = machine
        self._ends_call, self._is_signal_return = machine.ends_call, machine.is_signal_return
        self.originals: dict[int, int] = {}
        self._called: dict[int, int | None] = {}
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
            code = self._read(address - CALL_BYTES, CALL_BYTES)
            if code is None:
                return True
            known = self._known[address] = self._ends_call(code)
        return known

    def is_signal_return(self, address: int) -> bool:
        """Whether a signal handler returns here: no call is before it. False if the code cannot be read."""
        known = self._signal_returns.get(address)
        if known is None:
            code = self._read(address, SIGNAL_RETURN_BYTES)
            if code is None:
                return False
            known = self._signal_returns[address] = self._is_signal_return(code)
        return known

    def called(self, address: int) -> int | None:
        """The function that the call before a return address names, past the linker's stub; None if it names none."""
        if address not in self._called:
            if len(self._called) >= _MAX_KNOWN:
                self._called.clear()
            self._called[address] = self._find_called(address)
        return self._called[address]

    def _find_called(self, address: int) -> int | None:
        code = self._read(address - CALL_BYTES, CALL_BYTES)
        found = self._machine.called(code, address) if code is not None else None
        if found is None:
            return None
        if not found.is_slot:
            stub = self._read(found.address, STUB_BYTES)
            slot = self._machine.jump_slot(stub, found.address) if stub is not None else None
            if slot is None:
                return found.address
            found = Called(slot, is_slot=True)
        held = self._read(found.address, _POINTER_BYTES)
        return int.from_bytes(held, "little") or None if held is not None else None

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
        if len(code) != n_bytes:
            return None
        if self.originals:
            return bytes(self.originals.get(at, byte) for at, byte in enumerate(code, address))
        return code
