"""What this kernel's BPF is without, of what the programs would use; they do without it, at a cost.

Found by trying: a short program of each kind is loaded, and gone again. A kernel refuses an unknown operation even
where it is never reached, so the instructions themselves are taken out of the object then.
"""

from __future__ import annotations

import functools
import os
import platform
from typing import Final

from nativeleak.engines.bpf.kernel import perf
from nativeleak.engines.bpf.kernel.abi import LACKS_NOTHING, Lack
from nativeleak.engines.bpf.kernel.instructions import (
    ATOMIC_OPERATIONS,
    FETCHING,
    INSTRUCTION,
    JUMP_ALWAYS,
    R0,
    R1,
    R2,
    R10,
    Helper,
    call,
    exchange,
    leave,
    move,
    set_register,
    store,
)
from nativeleak.symbols.elf import SHF_EXECINSTR, BytesSource, ElfFile

_HELPERS: Final = {
    Lack.COOKIES: call(Helper.GET_ATTACH_COOKIE),
    Lack.REGISTERS: call(Helper.GET_CURRENT_TASK_BTF) + move(R1, R0) + call(Helper.TASK_PT_REGS),
}


@functools.cache
def missing_features() -> Lack:
    """What this kernel is without. Where we may not load programs at all, nothing: what comes next will say that."""
    if not _can_load(set_register(R0, 0)):
        return LACKS_NOTHING
    lacks = LACKS_NOTHING
    for lack, code in (
        (Lack.ATOMICS, set_register(R2, 1) + store(R10, -8, R2) + exchange(R10, -8, R2) + set_register(R0, 0)),
        *((lack, code + set_register(R0, 0)) for lack, code in _HELPERS.items()),
    ):
        if not _can_load(code):
            lacks |= lack
    return lacks


def describe(lacks: Lack) -> str:
    """For people: what is done without."""
    said = {
        Lack.ATOMICS: "atomic operations of BPF (Linux 5.12): blocks are sought in hash maps only, at a cost",
        Lack.COOKIES: "cookies of probes (5.15): each probe has a program of its own in front",
        Lack.REGISTERS: "the registers of a task (5.15): "
        + ("read from its kernel stack" if platform.machine() == "x86_64" else "system calls have no stacks"),
    }
    return "; ".join(said[lack] for lack in lacks)


def without_fetching(content: bytes) -> bytes:
    """An object whose atomic operations that give back what was there have become jumps to the next instruction.

    They are behind a constant that the verifier knows (``kernel_lacks``), so that they are never reached.
    """
    patched = bytearray(content)
    for section in ElfFile(BytesSource(content)).sections:
        if not section.flags & SHF_EXECINSTR:
            continue
        for at in range(section.offset, section.offset + section.n_bytes, INSTRUCTION.size):
            operation, _, _, value = INSTRUCTION.unpack_from(content, at)
            if operation in ATOMIC_OPERATIONS and (value & FETCHING):
                INSTRUCTION.pack_into(patched, at, JUMP_ALWAYS, 0, 0, 0)
    return bytes(patched)


def _can_load(code: bytes) -> bool:
    try:
        fd = perf.load_program("nl_try", perf.PROG_KPROBE, code + leave(), 0, is_explained=False)
    except OSError:
        return False
    os.close(fd)
    return True
