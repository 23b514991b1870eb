"""Which instructions the kernel emulates when a probe sits on them, and which it single-steps.

A probe on an emulated instruction costs one trap; on any other the kernel copies the instruction out of line and takes
a second trap to step it: 16 us instead of 0.5 us in a virtual machine. What is emulated differs by kernel, so it is
found by trying on code of our own.

Scope: x86-64. On other machines nothing is measured, and ``placement`` puts every probe at the entry.
Source: arch/x86/kernel/uprobes.c, ``branch_setup_xol_ops`` and ``push_setup_xol_ops``; Intel SDM vol. 2 for opcodes.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Final

from nativeleak import arch


class InstructionClass(StrEnum):
    """Instructions that some kernel emulates, each in the one encoding that compilers write."""

    NOP = "nop"
    NOP4 = "nop4"
    NOP5 = "nop5"
    PUSH = "push"
    PUSH_EXTENDED = "push r8-r15"
    JUMP = "jmp"
    BRANCH = "jcc"
    CALL = "call"
    ENDBR = "endbr64"

    def describe(self, code: bytes) -> str:
        """The instruction of this class that ``code`` begins with, for people."""
        match self:
            case InstructionClass.PUSH:
                return f"push {_PUSHED[code[0] - 0x50]}"
            case InstructionClass.PUSH_EXTENDED:
                return f"push r{8 + code[1] - 0x50}"
            case InstructionClass.BRANCH:
                opcode = code[1] if code[0] == 0x0F else code[0]
                return f"j{_CONDITIONS[opcode & 15]}"
            case _:
                return self.value


_PUSHED: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_CONDITIONS: Final = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")

CONSERVATIVE: Final = frozenset(
    {
        InstructionClass.NOP,
        InstructionClass.PUSH,
        InstructionClass.PUSH_EXTENDED,
        InstructionClass.JUMP,
        InstructionClass.BRANCH,
        InstructionClass.CALL,
    }
)
"""What kernels since 4.19 emulate: believed where nothing can be measured."""

Attach = Callable[[str, Sequence[int]], AbstractContextManager[object]]
"""Attaches a short program at file offsets of the file at a path, in this process, until the context is left."""

_NOP4: Final = b"\x0f\x1f\x40\x00"
_NOP5: Final = b"\x0f\x1f\x44\x00\x00"
_ENDBR64: Final = b"\xf3\x0f\x1e\xfa"

# The instruction, and what undoes it.
_TRIED: Final[dict[InstructionClass, tuple[bytes, bytes]]] = {
    InstructionClass.NOP: (b"\x90", b""),
    InstructionClass.NOP4: (_NOP4, b""),
    InstructionClass.NOP5: (_NOP5, b""),
    InstructionClass.PUSH: (b"\x55", b"\x5d"),  # push rbp; pop rbp
    InstructionClass.PUSH_EXTENDED: (b"\x41\x54", b"\x41\x5c"),  # push r12; pop r12
    InstructionClass.JUMP: (b"\xeb\x00", b""),
    InstructionClass.BRANCH: (b"\x74\x00", b""),
    InstructionClass.ENDBR: (_ENDBR64, b""),
}
_STEPPED: Final = b"\x48\x85\xff"  # test rdi, rdi: no kernel emulates it
_TURNS: Final = 8
_ROUNDS: Final = 5
_SLOT_BYTES: Final = 32
_CALLED: Final = 0
"""Offset of the lone ``ret`` that the tried call goes to."""
_MIN_RATIO: Final = 1.4
"""Below this a single-stepped hit costs so little more that the classes cannot be told apart, nor need they be."""
_FOLDERS: Final = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 (a private temporary file in each)


def classify(code: bytes) -> InstructionClass | None:
    """The class of the instruction that ``code`` begins with, None for all others.

    Only encodings without prefixes count: the kernel refuses some with, and a compiler writes none at an entry.
    """
    first = code[:1]
    if not first:
        return None
    for whole, kind in ((_ENDBR64, InstructionClass.ENDBR), (_NOP4, InstructionClass.NOP4)):
        if code.startswith(whole):
            return kind
    if code.startswith(_NOP5):
        return InstructionClass.NOP5
    if b"\x50" <= first <= b"\x57":
        return InstructionClass.PUSH
    if b"\x70" <= first <= b"\x7f":
        return InstructionClass.BRANCH
    second = code[1:2]
    if first == b"\x41" and b"\x50" <= second <= b"\x57":
        return InstructionClass.PUSH_EXTENDED
    if first == b"\x0f" and b"\x80" <= second <= b"\x8f":
        return InstructionClass.BRANCH
    return {
        b"\x90": InstructionClass.NOP,
        b"\xeb": InstructionClass.JUMP,
        b"\xe9": InstructionClass.JUMP,
        b"\xe8": InstructionClass.CALL,
    }.get(first)


def measure_emulated(attach: Attach) -> frozenset[InstructionClass]:
    """Try each class on a code page of our own, with a probe on it; ``CONSERVATIVE`` where that cannot be done.

    A class counts as emulated when its hit is nearer, as a factor, to that of a one-byte nop, which every kernel
    emulates, than to that of an instruction that every kernel single-steps. All offsets are attached at once, since
    detaching one by one takes 0.1 s each.

    Args:
        attach: Its program should do next to nothing: what it costs blurs the difference.
    """
    if not arch.here().decodes:
        return CONSERVATIVE
    page, slots, probed = _code_page()
    for folder in dict.fromkeys((*_FOLDERS, os.environ.get("TMPDIR", "/tmp"))):  # noqa: S108 - the file is O_EXCL
        try:
            with _mapped(page, folder) as (path, address), attach(path, list(probed.values())):
                costs_ns = _time_slots(address, slots)
        except OSError:
            continue  # not executable there (noexec), or of a kind that has no uprobes
        return _tell_emulated(costs_ns)
    return CONSERVATIVE


def _tell_emulated(costs_ns: dict[InstructionClass | None, float]) -> frozenset[InstructionClass]:
    emulated_ns, stepped_ns = costs_ns[InstructionClass.NOP], costs_ns[None]
    if emulated_ns <= 0 or stepped_ns < _MIN_RATIO * emulated_ns:
        return CONSERVATIVE
    limit_ns = math.sqrt(emulated_ns * stepped_ns)
    return frozenset(kind for kind, cost_ns in costs_ns.items() if kind is not None and cost_ns < limit_ns)


def _code_page() -> tuple[bytes, dict[InstructionClass | None, int], dict[InstructionClass | None, int]]:
    """The code, where each loop begins, and where in it the probe goes; None is the single-stepped reference."""
    page = bytearray(b"\xc3".ljust(_SLOT_BYTES, b"\xcc"))  # the ret at _CALLED
    starts: dict[InstructionClass | None, int] = {}
    probed: dict[InstructionClass | None, int] = {}
    call_at = (len(_TRIED) + 1) * _SLOT_BYTES + 5
    call = b"\xe8" + (_CALLED - (call_at + 5)).to_bytes(4, "little", signed=True)
    tried: list[tuple[InstructionClass | None, tuple[bytes, bytes]]] = [
        *_TRIED.items(),
        (InstructionClass.CALL, (call, b"")),
        (None, (_STEPPED, b"")),
    ]
    for kind, (instruction, after) in tried:
        starts[kind] = len(page)
        probed[kind] = len(page) + 5
        body = instruction + after
        # mov ecx, _TURNS; again: body; dec ecx; jnz again; ret
        code = b"\xb9" + _TURNS.to_bytes(4, "little") + body + b"\xff\xc9\x75" + bytes([256 - len(body) - 4]) + b"\xc3"
        page += code.ljust(_SLOT_BYTES, b"\xcc")
    return bytes(page), starts, probed


@contextlib.contextmanager
def _mapped(page: bytes, folder: str) -> Iterator[tuple[str, int]]:
    """A file with this code, mapped here to be run: its path and where it is mapped. Gone afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    # Not by tempfile, which brings OpenSSL into the recorder by way of random and hashlib.
    path = f"{folder}/nativeleak-probe-{os.urandom(8).hex()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, page.ljust(mmap.PAGESIZE, b"\xcc"))
        # Private and never writable: the kernel probes no other mapping.
        address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        try:
            yield path, address
        finally:
            libc.munmap(address, mmap.PAGESIZE)
    finally:
        os.close(fd)
        Path(path).unlink(missing_ok=True)


def _time_slots(address: int, starts: dict[InstructionClass | None, int]) -> dict[InstructionClass | None, float]:
    """Nanoseconds a turn, the least of some rounds: interruptions only add."""
    functions = {kind: ctypes.CFUNCTYPE(None)(address + start) for kind, start in starts.items()}
    costs_ns = dict.fromkeys(functions, math.inf)
    for _ in range(_ROUNDS):
        for kind, function in functions.items():
            start_ns = time.perf_counter_ns()
            function()
            costs_ns[kind] = min(costs_ns[kind], (time.perf_counter_ns() - start_ns) / _TURNS)
    return costs_ns
