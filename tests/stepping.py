"""Runs a program under ptrace, with breakpoints at entries and exits: what exits say is held against what returns say.

Each call of a function is followed from its entry to its return; at an exit the register is read that the analysis
names, as the tracer's probe does. No kernel probe is involved, so that this is a second opinion on the analysis alone.

Source: ptrace(2), struct user_regs_struct in <sys/user.h>.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nativeleak.probes.exits import Exit, Exits
from nativeleak.probes.registers import NAMES
from nativeleak.probes.values import ZERO

_TRACEME, _CONT, _SINGLESTEP, _GETREGS, _SETREGS, _SETOPTIONS = 0, 7, 9, 12, 13, 0x4200
_EXITKILL: Final = 0x100000
_INT3: Final = b"\xcc"


_FIELDS: Final = """
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs
"""


class _Registers(ctypes.Structure):
    """struct user_regs_struct."""

    _fields_ = [(name, ctypes.c_uint64) for name in _FIELDS.split()]


@dataclass(slots=True)
class _Call:
    """A call under way."""

    function: str
    sp: int
    return_address: int
    memory: int
    hits: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What was seen.

    Attributes:
        n_calls: Function -> calls that returned.
        n_thrown: Function -> calls that an exception left.
        n_hits: Address of an exit -> hits that counted.
        faults: What was not as it has to be, in words.
        output: Exit status of the program.
    """

    n_calls: Counter[str] = field(default_factory=Counter)
    n_thrown: Counter[str] = field(default_factory=Counter)
    n_hits: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    status: int = -1


class Stepper:
    """One program, stopped at the breakpoints of one of its objects.

    Args:
        argv: Program and arguments; it has to stop itself by SIGSTOP when the object is mapped.
        environment: Of the program.
        object_name: End of the path of the object.
        entries: Function -> address of its first instruction, as the object counts.
        exits: Function -> its exits.
        posix: Functions that return a status and the block through their first argument.
        again: Functions that may pass exits more than once, with one result and nothing called in between.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        object_name: str,
        entries: Mapping[str, int],
        exits: Mapping[str, Exits],
        posix: Iterable[str] = (),
        again: Iterable[str] = (),
    ) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._argv, self._environment, self._object = list(argv), dict(environment), object_name
        self._entries, self._exits, self._posix = entries, exits, frozenset(posix)
        self._again = frozenset(again)
        self._registers = _Registers()
        self._calls: list[_Call] = []
        self._bytes: dict[int, bytes] = {}
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run the program to its end."""
        pid = os.fork()
        if pid == 0:
            self._libc.ptrace(_TRACEME, 0, None, None)
            os.execve(self._argv[0], self._argv, self._environment)  # noqa: S606
        self._pid = pid
        _, status = os.waitpid(pid, 0)
        self._ptrace(_SETOPTIONS, _EXITKILL)
        while os.WSTOPSIG(status) != signal.SIGSTOP:
            status = self._resume(_CONT, 0 if os.WSTOPSIG(status) == signal.SIGTRAP else os.WSTOPSIG(status))
            if not os.WIFSTOPPED(status):
                self.outcome.faults.append(f"it ended before it stopped itself: {status}")
                return self.outcome
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        self._plant()
        status = self._resume(_CONT)
        while os.WIFSTOPPED(status):
            number = os.WSTOPSIG(status)
            status = self._at_breakpoint() if number == signal.SIGTRAP else self._resume(_CONT, number)
        self.outcome.status = os.waitstatus_to_exitcode(status)
        os.close(self._memory)
        return self.outcome

    def _ptrace(self, request: int, data: int = 0, address: int = 0) -> None:
        if self._libc.ptrace(request, self._pid, address, data) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def _resume(self, request: int, number: int = 0) -> int:
        self._ptrace(request, number)
        return os.waitpid(self._pid, 0)[1]

    def _plant(self) -> None:
        self._bias = self._find_bias()
        self._at_entry = {self._bias + vaddr: name for name, vaddr in self._entries.items()}
        self._places: dict[str, dict[int, list[Exit]]] = {}
        self._ends_in: dict[str, set[int]] = {}
        for name in self._exits:
            places: dict[int, list[Exit]] = {}
            seen: set[int] = set()
            for each in self._all_exits(self._entries[name], seen):
                places.setdefault(self._bias + each.vaddr, []).append(each)
            self._places[name] = places
            self._ends_in[name] = seen - {self._entries[name]}
        for address in {*self._at_entry, *(address for places in self._places.values() for address in places)}:
            self._set(address)

    def _all_exits(self, vaddr: int, seen: set[int]) -> set[Exit]:
        seen.add(vaddr)
        name = next(each for each, place in self._entries.items() if place == vaddr)
        exits = self._exits[name]
        found = set(exits.places)
        for each in exits.goes_on_in:
            if each not in seen:
                found |= self._all_exits(each, seen)
        return found

    def _find_bias(self) -> int:
        with open(f"/proc/{self._pid}/maps") as maps:
            for line in maps:
                if line.rstrip().endswith(self._object) and int(line.split()[2], 16) == 0:
                    return int(line.split("-")[0], 16)
        raise ValueError(f"{self._object} is not mapped")

    def _set(self, address: int) -> None:
        if address not in self._bytes:
            self._bytes[address] = os.pread(self._memory, 1, address)
        os.pwrite(self._memory, _INT3, address)

    def _word(self, address: int) -> int:
        return int.from_bytes(os.pread(self._memory, 8, address), "little")

    def _at_breakpoint(self) -> int:
        registers = self._registers
        self._ptrace(_GETREGS, ctypes.addressof(registers))
        address = registers.rip - 1
        if address not in self._bytes:
            self.outcome.faults.append(f"trapped at {address:#x}")
            return self._resume(_CONT)
        self._drop_thrown()
        self._see_return(address)
        if address in self._at_entry:
            self._enter(self._at_entry[address])
        self._see_exit(address)
        registers.rip = address
        self._ptrace(_SETREGS, ctypes.addressof(registers))
        os.pwrite(self._memory, self._bytes[address], address)
        status = self._resume(_SINGLESTEP)
        if os.WIFSTOPPED(status):
            os.pwrite(self._memory, _INT3, address)
            status = self._resume(_CONT)
        return status

    def _drop_thrown(self) -> None:
        """Calls whose frame is gone, but for those that return at this very place."""
        while self._calls and self._registers.rsp > self._calls[-1].sp + 8:
            call = self._calls.pop()
            self.outcome.n_thrown[call.function] += 1
            if call.hits:
                self.outcome.faults.append(f"{call.function} was thrown out of behind its exit {call.hits[0][0]:#x}")

    def _enter(self, function: str) -> None:
        sp, entry = self._registers.rsp, self._entries[function]
        # The tracer takes a call for ended at its first exit: what begins then would be a call of its own.
        self.outcome.faults += [
            f"{call.function} calls {function} behind its exit {call.hits[0][0]:#x}"
            for call in self._calls
            if call.hits
        ]
        # At the same stack pointer it was either jumped to, or the call before was left by an exception.
        while self._calls and self._calls[-1].sp == sp and entry not in self._ends_in[self._calls[-1].function]:
            self.outcome.n_thrown[self._calls.pop().function] += 1
        return_address = self._word(sp)
        self._calls.append(_Call(function, sp, return_address, self._registers.rdi))
        self._set(return_address)

    def _see_exit(self, address: int) -> None:
        for call in self._calls:
            for place in self._places[call.function].get(address, ()):
                if self._registers.rsp + place.depth_bytes != call.sp:
                    continue
                if place.condition is not None and not _holds(place.condition, self._registers.eflags):
                    continue
                value = 0 if place.register == ZERO else getattr(self._registers, NAMES[place.register])
                if call.function in self._posix and value & 0xFFFF_FFFF == 0:
                    value = self._word(call.memory) << 32
                call.hits.append((address - self._bias, value))

    def _see_return(self, address: int) -> None:
        registers = self._registers
        while self._calls and self._calls[-1].return_address == address and registers.rsp == self._calls[-1].sp + 8:
            call = self._calls.pop()
            self.outcome.n_calls[call.function] += 1
            expected = registers.rax
            if call.function in self._posix and expected & 0xFFFF_FFFF == 0:
                expected = self._word(call.memory) << 32
            if call.function in self._posix and expected & 0xFFFF_FFFF:
                call.hits = [(place, value & 0xFFFF_FFFF) for place, value in call.hits]
                expected &= 0xFFFF_FFFF
            # A second pass with the same block is nothing to the tracer, for which no call is open any more.
            values = {value for _, value in call.hits} if call.function in self._again else [v for _, v in call.hits]
            if list(values) != [expected]:
                seen = ", ".join(f"{value:#x} at {place:#x}" for place, value in call.hits) or "nothing"
                self.outcome.faults.append(f"{call.function} returned {expected:#x}, its exits said {seen}")
            self.outcome.n_hits.update(place for place, _ in call.hits)


def _holds(condition: int, flags: int) -> bool:
    """Whether a branch is taken. Source: Intel SDM vol. 2, appendix B."""
    carry, parity, zero, sign, overflow = (flags >> bit & 1 for bit in (0, 2, 6, 7, 11))
    holds = (
        overflow,
        carry,
        zero,
        carry | zero,
        sign,
        parity,
        sign ^ overflow,
        zero | (sign ^ overflow),
    )[condition >> 1]
    return bool(holds) != bool(condition & 1)
