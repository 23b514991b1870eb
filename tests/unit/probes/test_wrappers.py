"""How much room a system call wrapper makes on the stack."""

from __future__ import annotations

import pytest

from nativeleak.probes.wrappers import parse_prologue


@pytest.mark.parametrize(
    ("code", "frame_bytes"),
    [
        ("b80c0000000f05", 0),  # mov $12,%eax; syscall: glibc's brk
        ("4883ec584c89442440", 0x58),  # sub $0x58,%rsp: glibc's mremap
        ("4154534883ec28", 8 + 8 + 0x28),  # push %r12; push %rbx; sub $0x28,%rsp: musl's mmap
        ("554883ec70", 8 + 0x70),  # push %rbp; sub $0x70,%rsp: musl's mremap
        ("f30f1efa4883ec08", 8),  # endbr64 first
        ("4881ec88000000", 0x88),  # sub $0x88,%rsp in its long form
        ("53", 8),
        ("41", 0),
        ("4883ec", 0),
        ("", 0),
    ],
)
def test_prologue_takes_from_the_stack_what_its_instructions_say(code, frame_bytes):
    assert parse_prologue(bytes.fromhex(code)) == frame_bytes
