from __future__ import annotations

import ctypes
import os

import pytest

from nativeleak import arch
from nativeleak.unwind.verify import ReturnAddresses

IS_X86 = arch.here() is arch.X86_64


def code_of_ours() -> ctypes.Array[ctypes.c_char]:
    """Memory of this process to look at; data, which does not matter to who reads it."""
    call = b"\xe8\x10\x20\x30\x40" if IS_X86 else b"\x01\0\0\x94"
    trampoline = bytes.fromhex("48c7c00f0000000f05" if IS_X86 else "681180d2010000d400")
    return ctypes.create_string_buffer(b"\0" * 16 + call + b"\0" * 16 + trampoline + b"\0" * 16)


def test_return_addresses_of_a_process_plausible_where_a_call_ends_and_nowhere_else():
    room = code_of_ours()
    n_call = 5 if IS_X86 else 4
    address = ctypes.addressof(room) + 16 + n_call
    returns = ReturnAddresses(os.getpid())
    assert returns.is_plausible(address)
    assert not returns.is_plausible(address + 4)
    assert returns.is_signal_return(address + 16)
    assert not returns.is_signal_return(address)
    returns.close()


def test_return_addresses_each_is_read_once():
    room = code_of_ours()
    address = ctypes.addressof(room) + 16 + (5 if IS_X86 else 4)
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


@pytest.mark.skipif(not IS_X86, reason="x86-64 instructions")
def test_return_addresses_tell_the_function_that_was_called_past_a_stub():
    room = ctypes.create_string_buffer(256)
    base = ctypes.addressof(room)

    def put(at: int, code: bytes) -> None:
        ctypes.memmove(base + at, code, len(code))

    put(16, b"\xe8" + (64 - 21).to_bytes(4, "little"))  # calls the stub at 64
    put(64, b"\xf3\x0f\x1e\xfa\xff\x25" + (128 - 74).to_bytes(4, "little"))  # jumps by the slot at 128
    put(128, (base + 200).to_bytes(8, "little"))
    put(32, b"\xff\x15" + (128 - 38).to_bytes(4, "little"))  # calls by the same slot
    put(48, b"\xe8" + (200 - 53).to_bytes(4, "little"))
    put(56, b"\xff\xd0")
    returns = ReturnAddresses(os.getpid())
    assert [returns.called(base + at) for at in (21, 38, 53)] == [base + 200] * 3
    assert returns.called(base + 58) is None
    assert returns.called(0x1000) is None
    returns.close()
    assert returns.called(base + 200) is None
