"""Registers of every thread of a process, read without stopping one: an iterator over tasks that runs in the kernel.

Scope: what each thread had in its registers when it last entered the kernel. A thread that sleeps there still has them;
one that runs has others by now. /proc/PID/task/TID/syscall gives only the arguments of the call, not the registers that
a function keeps a pointer in across the call.

Source: ``struct bpf_iter__task`` in kernel/bpf/task_iter.c, ``struct pt_regs`` of x86-64 and ``struct user_pt_regs`` of
arm64 (asm/ptrace.h); ``bpf_task_pt_regs`` is in Linux 5.15 and later.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nativeleak import arch
from nativeleak.engines.bpf.kernel.bpf import link_iterator, load_tracing_program, start_iterator
from nativeleak.engines.bpf.kernel.btf import BTF_PATH, find_function, parse_offsets
from nativeleak.engines.bpf.kernel.instructions import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R8,
    R9,
    R10,
    Helper,
    add,
    call,
    leave,
    load,
    load_32,
    move,
    set_register,
    skip_if_zero,
    skip_unless_equal,
    store,
)  # fmt: skip
from nativeleak.engines.bpf.kernel.system import close_fds

_TRACE_ITER: Final = 28
_TGID, _PID = ("task_struct", "tgid"), ("task_struct", "pid")
# Registers at the start of the structure that can hold an address: r15 to rdi of x86-64, x0 to x30 and sp of arm64.
_N_REGISTERS: Final = {"x86_64": 15, "aarch64": 32}
_SP_OF_X86: Final = 19  # behind orig_rax, rip, cs, flags
_READ_BYTES: Final = 1 << 16


class RegisterReader:
    """Reads the registers of one process's threads, as often as wanted.

    Args:
        pid: The process, as the first PID namespace counts.

    Raises:
        OSError: The kernel has no such iterator or refuses the program; it may have no type information.
        ValueError: Its type information is not as expected.
    """

    def __init__(self, pid: int) -> None:
        machine = arch.here().name
        if machine not in _N_REGISTERS:
            raise OSError(f"registers of {machine} are not known")
        self._n_words = 1 + _N_REGISTERS[machine] + (machine == "x86_64")
        btf = BTF_PATH.read_bytes()
        offsets = parse_offsets(btf, (_TGID, _PID))
        code = _program(pid, offsets[_TGID], offsets[_PID], _N_REGISTERS[machine], has_sp=machine != "x86_64")
        self._fds = [load_tracing_program("nl_registers", code, _TRACE_ITER, find_function(btf, "bpf_iter_task"))]
        try:
            self._fds.append(link_iterator(self._fds[0], _TRACE_ITER))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Take the program out of the kernel."""
        close_fds(self._fds)
        self._fds = []

    def read(self) -> dict[int, tuple[int, ...]]:
        """Registers by tid; the last one is the stack pointer.

        Raises:
            OSError: As the kernel says.
        """
        record = struct.Struct(f"={self._n_words}Q")
        data = b"".join(_pass(self._fds[1]))
        whole = len(data) // record.size * record.size
        return {tid: tuple(words) for tid, *words in record.iter_unpack(data[:whole])}


@contextmanager
def _reading(link_fd: int) -> Iterator[int]:
    fd = start_iterator(link_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _pass(link_fd: int) -> Iterator[bytes]:
    with _reading(link_fd) as fd:
        while part := os.read(fd, _READ_BYTES):
            yield part


def _program(pid: int, tgid_at: int, pid_at: int, n_registers: int, *, has_sp: bool) -> bytes:
    """Writes tid and registers of each task of one process."""
    n_words = 1 + n_registers + (not has_sp)
    room = -8 * n_words
    places = [*range(n_registers), *(() if has_sp else (_SP_OF_X86,))]
    copy = b"".join(load(R1, R9, 8 * at) + store(R10, room + 8 * (1 + n), R1) for n, at in enumerate(places))
    write = load(R1, R6, 0) + move(R2, R10) + add(R2, room) + set_register(R3, 8 * n_words) + call(Helper.SEQ_WRITE)
    tid = load_32(R8, R7, pid_at) + store(R10, room, R8)
    body = tid + move(R1, R7) + call(Helper.TASK_PT_REGS) + move(R9, R0) + copy + write
    of_process = load_32(R8, R7, tgid_at) + skip_unless_equal(R8, pid, body)
    # The context: what the iterator writes to, and the task; none at the end of the pass.
    return load(R6, R1, 0) + load(R7, R1, 8) + skip_if_zero(R7, of_process) + set_register(R0, 0) + leave()
