"""Features of the kernel's BPF that the programs use where they are there: a row each.

Found by trying: a short program of each kind is loaded, and gone again. A kernel refuses an unknown operation even
where it is never reached, so the instructions themselves are taken out of the object then.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Final

from nativeleak import arch
from nativeleak.engines.bpf.kernel import bpf
from nativeleak.engines.bpf.kernel.abi import MissingFeature
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

NOTHING_MISSING: Final = MissingFeature(0)


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature.

    Attributes:
        flag: What the programs know it by.
        name: For people, a noun.
        since: The first release of the kernel that has it.
        without: What happens without it, for people.
        probe: A program that only a kernel with the feature loads, but for its end.
    """

    flag: MissingFeature
    name: str
    since: str
    without: str
    probe: bytes

    def describe(self) -> str:
        """For people: the feature and what happens without it."""
        return f"{self.name} (Linux {self.since}): {self.without}"


FEATURES: Final = (
    Feature(
        MissingFeature.ATOMICS,
        "atomic BPF operations",
        "5.12",
        "blocks are looked up in hash maps only, which costs more",
        set_register(R2, 1) + store(R10, -8, R2) + exchange(R10, -8, R2),
    ),
    Feature(
        MissingFeature.COOKIES,
        "cookies of probes",
        "5.15",
        "each probe has a program of its own in front",
        call(Helper.GET_ATTACH_COOKIE),
    ),
    Feature(
        MissingFeature.REGISTERS,
        "the registers of a task",
        "5.15",
        "they are read from its kernel stack"
        if arch.here().has_kernel_stack_registers
        else "system calls have no stacks",
        call(Helper.GET_CURRENT_TASK_BTF) + move(R1, R0) + call(Helper.TASK_PT_REGS),
    ),
)


@functools.cache
def missing_features() -> MissingFeature:
    """Features that this kernel lacks. None where we may not load programs at all: the load itself will say that."""
    if not _can_load(b""):
        return NOTHING_MISSING
    missing = NOTHING_MISSING
    for feature in FEATURES:
        if not _can_load(feature.probe):
            missing |= feature.flag
    return missing


def describe(missing: MissingFeature) -> str:
    """For people: which features are missing, and what happens without them; empty where none is."""
    return "; ".join(feature.describe() for feature in FEATURES if feature.flag in missing)


def without_fetching(content: bytes) -> bytes:
    """An object whose atomic operations that return the old value have become jumps to the next instruction.

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


def _can_load(probe: bytes) -> bool:
    code = probe + set_register(R0, 0) + leave()
    try:
        fd = bpf.load_program("nl_try", bpf.PROG_KPROBE, code, 0, is_explained=False)
    except OSError:
        return False
    os.close(fd)
    return True
