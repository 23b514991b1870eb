from __future__ import annotations

import ctypes
import os
import platform
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nativeleak.unwind.verify import (
    CODE_BYTES,
    ReturnAddresses,
    ends_call_arm64,
    ends_call_x86,
    is_signal_return_arm64,
    is_signal_return_x86,
)
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
    return bytes.fromhex(code).rjust(CODE_BYTES, b"\x90")


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
    require(platform.machine() == "x86_64", "the C library here is not for x86-64")
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
        window = bytes(image.get(end - CODE_BYTES + i, 0x90) for i in range(CODE_BYTES))
        if ends_call_x86(window):
            known.add(end)
    assert len(ends) > 5000
    assert ends - known == set()
    # Bytes of other instructions can look like a call: rare enough to find a broken chain at once.
    assert len(known - ends) < len(code) / 100


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
        code = chance.randbytes(CODE_BYTES)
        assert ends_call_x86(code) in (True, False)
        assert ends_call_arm64(code) in (True, False)


def test_is_signal_return_trampoline_of_each_architecture():
    assert is_signal_return_x86(bytes.fromhex("48c7c00f000000 0f05"))  # mov $15,%rax; syscall
    assert not is_signal_return_x86(bytes.fromhex("48c7c03c000000 0f05"))  # exit
    assert is_signal_return_arm64(bytes.fromhex("681180d2 010000d4") + b"\0")  # mov x8,#139; svc #0
    assert not is_signal_return_arm64(bytes.fromhex("881180d2 010000d4") + b"\0")


def code_of_ours() -> ctypes.Array[ctypes.c_char]:
    """Memory of this process to look at; data, which does not matter to who reads it."""
    call = b"\xe8\x10\x20\x30\x40" if platform.machine() == "x86_64" else b"\x01\0\0\x94"
    trampoline = bytes.fromhex("48c7c00f0000000f05" if platform.machine() == "x86_64" else "681180d2010000d400")
    return ctypes.create_string_buffer(b"\0" * 16 + call + b"\0" * 16 + trampoline + b"\0" * 16)


def test_return_addresses_of_a_process_plausible_where_a_call_ends_and_nowhere_else():
    room = code_of_ours()
    n_call = 5 if platform.machine() == "x86_64" else 4
    address = ctypes.addressof(room) + 16 + n_call
    returns = ReturnAddresses(os.getpid())
    assert returns.is_plausible(address)
    assert not returns.is_plausible(address + 4)
    assert returns.is_signal_return(address + 16)
    assert not returns.is_signal_return(address)
    returns.close()


def test_return_addresses_each_is_read_once():
    room = code_of_ours()
    address = ctypes.addressof(room) + 16 + (5 if platform.machine() == "x86_64" else 4)
    returns = ReturnAddresses(os.getpid())
    assert returns.is_plausible(address)
    ctypes.memset(room, 0, len(room))
    assert returns.is_plausible(address)
    returns.close()


@pytest.mark.parametrize("address", [0, 7, 0x1000, 1 << 47, (1 << 56) - 1, (1 << 63) + 5, (1 << 64) - 1])
def test_return_addresses_unreadable_are_believed(address):
    returns = ReturnAddresses(os.getpid())
    assert returns.is_plausible(address)
    assert not returns.is_signal_return(address)
    returns.close()


def test_return_addresses_of_a_process_that_is_gone_are_believed():
    returns = ReturnAddresses(2**22 + 1)
    assert returns.is_plausible(0x1000)
    assert not returns.is_signal_return(0x1000)
    returns.close()
    returns.close()
