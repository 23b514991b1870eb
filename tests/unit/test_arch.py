"""What is known of each machine, against the machine that the tests run on and its compilers."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nativeleak import arch
from nativeleak.arch import (
    ARM64,
    CALL_BYTES,
    MACHINES,
    X86_64,
    Called,
    by_elf,
    by_name,
    called_arm64,
    called_x86,
    ends_call_arm64,
    ends_call_x86,
    is_signal_return_arm64,
    is_signal_return_x86,
    jump_slot_x86,
)
from nativeleak.symbols.elf import ElfFile
from support import require

CALLS_X86 = {
    "e8 rel32": "e8 10 20 30 40",
    "call *%rax": "ff d0",
    "call *%r11": "41 ff d3",
    "call *(%rax)": "ff 10",
    "call *(%rsp)": "ff 14 24",
    "call *(%r12)": "41 ff 14 24",
    "call *(%rax,%rcx,8)": "ff 14 c8",
    "call *8(%rax)": "ff 50 08",
    "call *8(%rsp)": "ff 54 24 08",
    "call *8(%r13,%rcx,4)": "41 ff 54 8d 08",
    "call *0x1000(%rax)": "ff 90 00 10 00 00",
    "call *0x1000(%rsp)": "ff 94 24 00 10 00 00",
    "call *0x1000(%rip)": "ff 15 00 10 00 00",
    "call *0x1000(,%rax,8)": "ff 14 c5 00 10 00 00",
    "call *%fs:0x10": "ff 14 25 10 00 00 00",
    "data16 rex.W call (of __tls_get_addr)": "66 48 e8 10 20 30 40",
    "notrack call *%rax": "3e ff d0",
}
"""Each form of ModRM and SIB that a call can have. Source: Intel SDM vol. 2, tables 2-2 and 2-3."""

NO_CALLS_X86 = {
    "jmp *%rax": "ff e0",
    "push %rax": "ff f0",
    "jmp rel32": "e9 10 20 30 40",
    "ff 90 with a displacement cut short: jmp ..ff; nop": "eb ff 90",
    "call *(%rsp) without its SIB byte": "ff 14",
    "call *8(%rax) without its displacement": "ff 50",
    "lcall *(%rax)": "ff 18",
    "nop": "90",
    "e8 one byte too early": "e8 10 20 30 40 50",
}


def before(code: str) -> bytes:
    """These bytes where a return address looks for them; nops before."""
    return bytes.fromhex(code).rjust(CALL_BYTES, b"\x90")


@pytest.mark.parametrize("code", CALLS_X86.values(), ids=CALLS_X86)
def test_ends_call_x86_each_form_of_call_is_one(code):
    assert ends_call_x86(before(code))


@pytest.mark.parametrize("code", NO_CALLS_X86.values(), ids=NO_CALLS_X86)
def test_ends_call_x86_other_instructions_are_none(code):
    assert not ends_call_x86(before(code))


def instructions(path: Path) -> list[tuple[int, bytes, str]]:
    """Address, bytes and text of each instruction of an object's .text, by objdump."""
    shown = subprocess.run(
        ["objdump", "-d", "--wide", "-j", ".text", str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    found = []
    for line in shown.splitlines():
        match = re.match(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t?(.*)", line)
        if match:
            found.append((int(match[1], 16), bytes.fromhex(match[2]), match[3]))
    return found


def mapped_library(name: str) -> Path:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if name in line:
            return Path(line.split()[-1])
    raise AssertionError(f"{name} is not mapped")


def test_ends_call_x86_every_call_of_libc_is_known_and_little_else():
    require(arch.here() is X86_64, "the C library here is not for x86-64")
    require(shutil.which("objdump"), "objdump is not installed")
    code = instructions(mapped_library("libc.so.6"))
    image = {address + i: byte for address, encoded, _ in code for i, byte in enumerate(encoded)}
    ends = {
        address + len(encoded)
        for address, encoded, text in code
        if re.search(r"\bcallq?\b", text) and "(bad)" not in text
    }
    known = set()
    for address, encoded, _ in code:
        end = address + len(encoded)
        window = bytes(image.get(end - CALL_BYTES + i, 0x90) for i in range(CALL_BYTES))
        if ends_call_x86(window):
            known.add(end)
    assert len(ends) > 5000
    assert ends - known == set()
    # Bytes of other instructions can look like a call: rare enough to find a broken chain at once.
    assert len(known - ends) < len(code) / 100


def test_called_x86_names_the_function_or_the_slot_that_objdump_names():
    require(arch.here() is X86_64, "the C library here is not for x86-64")
    require(shutil.which("objdump"), "objdump is not installed")
    code = instructions(mapped_library("libc.so.6"))
    image = {address + i: byte for address, encoded, _ in code for i, byte in enumerate(encoded)}
    n = 0
    for address, encoded, text in code:
        end = address + len(encoded)
        window = bytes(image.get(end - CALL_BYTES + i, 0x90) for i in range(CALL_BYTES))
        if direct := re.match(r"(?:addr32 )?callq? +([0-9a-f]+)", text):
            assert called_x86(window, end) == Called(int(direct[1], 16), is_slot=False)
            n += 1
        elif slot := re.match(r"(?:notrack )?callq? +\*0x[0-9a-f]+\(%rip\) +# ([0-9a-f]+)", text):
            assert called_x86(window, end) == Called(int(slot[1], 16), is_slot=True)
    assert n > 5000


@pytest.mark.parametrize(
    ("code", "slot"),
    [
        ("ff 25 10 00 00 00 90 90 90 90 90 90", 0x1016),
        ("f3 0f 1e fa ff 25 f0 ff ff ff 90 90", 0xFFA),
        ("f3 0f 1e fa f2 ff 25 10 00 00 00 90", 0x101B),
        ("f2 ff 25 10 00 00 00 90 90 90 90 90", 0x1017),
        ("e9 10 00 00 00 90 90 90 90 90 90 90", None),
        ("f3 0f 1e fa 48 89 e5 ff 25 10 00 00", None),
    ],
)
def test_jump_slot_x86_stubs_of_the_linker_name_their_slot(code, slot):
    assert jump_slot_x86(bytes.fromhex(code), 0x1000) == slot


@pytest.mark.parametrize(("word", "target"), [(0x94000001, 0x1000), (0x97FFFFFF, 0xFF8), (0xD63F0000, None)])
def test_called_arm64_bl_names_its_function(word, target):
    code = bytes(4) + word.to_bytes(4, "little")
    assert called_arm64(code, 0x1000) == (None if target is None else Called(target, is_slot=False))


@pytest.mark.parametrize(
    ("word", "is_call"),
    [
        (0x94000001, True),  # bl +4
        (0x97FFFFFF, True),  # bl -4
        (0xD63F0000, True),  # blr x0
        (0xD63F03C0, True),  # blr x30
        (0x14000001, False),  # b +4
        (0xD61F0000, False),  # br x0
        (0xD65F03C0, False),  # ret
        (0xD503201F, False),  # nop
        (0x54000000, False),  # b.eq
        (0xD63F0001, False),  # reserved bits
    ],
)
def test_ends_call_arm64_bl_and_blr_alone(word, is_call):
    assert ends_call_arm64(b"\0" * 4 + word.to_bytes(4, "little")) is is_call
    assert not ends_call_arm64(word.to_bytes(4, "little") + b"\0" * 4)


def test_ends_call_any_bytes_are_answered():
    chance = random.Random(1)
    for _ in range(20000):
        code = chance.randbytes(CALL_BYTES)
        assert ends_call_x86(code) in (True, False)
        assert ends_call_arm64(code) in (True, False)


def test_is_signal_return_trampoline_of_each_architecture():
    assert is_signal_return_x86(bytes.fromhex("48c7c00f000000 0f05"))  # mov $15,%rax; syscall
    assert not is_signal_return_x86(bytes.fromhex("48c7c03c000000 0f05"))  # exit
    assert is_signal_return_arm64(bytes.fromhex("681180d2 010000d4") + b"\0")  # mov x8,#139; svc #0
    assert not is_signal_return_arm64(bytes.fromhex("881180d2 010000d4") + b"\0")


def test_here_is_the_machine_of_this_interpreter():
    with ElfFile.open("/proc/self/exe") as elf:
        assert by_elf(elf.machine) is arch.here()
    assert arch.here().name == os.uname().machine


@pytest.mark.parametrize(
    ("name", "arguments", "refusals"),
    [
        ("bpf", (-1, 0, 0), {errno.EINVAL, errno.EPERM}),
        ("perf_event_open", (0, 0, -1, -1, 0), {errno.EFAULT, errno.EACCES, errno.EPERM}),
    ],
)
def test_here_number_of_a_system_call_is_refused_as_that_call_is(name, arguments, refusals):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(arch.here().syscalls[name], *map(ctypes.c_long, arguments)) == -1
    assert ctypes.get_errno() in refusals


def test_by_name_unknown_machine_has_its_name_and_nothing_else():
    machine = by_name("riscv64")
    assert (machine.name, machine.label) == ("riscv64", "riscv64")
    assert not machine.has_tables
    assert not machine.decodes
    assert machine.syscalls == {}
    assert machine.ends_call(b"\0" * CALL_BYTES)
    assert not machine.is_signal_return(b"\0" * 9)


def test_by_elf_each_machine_is_found_and_no_other():
    assert [by_elf(machine.elf_machine) for machine in MACHINES] == [X86_64, ARM64]
    assert by_elf(243) is None  # RISC-V
    assert by_elf(-1) is None
