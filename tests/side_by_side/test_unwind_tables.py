"""Unwind tables of the machine's own large objects, against two references.

libdw (Debian package libdw1) interprets CFI on its own: at random addresses it has to say what our tables say. objdump
(binutils) disassembles: at each call that it finds the call-site table has to give the rule of the full table.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import random
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak.symbols.elf import ElfFile, FileSource
from nativeleak.unwind import rules
from nativeleak.unwind.calls import MIN_MARK_BYTES, CallFinder, call_site_rows
from nativeleak.unwind.pack import lookup
from nativeleak.unwind.rows import RowList, full_rows
from nativeleak.unwind.table import build_table, read_pieces, text_ranges
from support import require, require_program

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
OBJECTS = {  # object -> Debian package
    LIBRARIES / "libc.so.6": "libc6",
    LIBRARIES / "libm.so.6": "libc6",
    LIBRARIES / "libstdc++.so.6": "libstdc++6",
    LIBRARIES / "libcrypto.so.3": "libssl3",
    LIBRARIES / "libLLVM-14.so.1": "libllvm14",
    Path("/usr/bin/python3.11"): "python3.11-minimal",
    Path("/usr/bin/perl"): "perl-base",
    Path("/usr/bin/git"): "git",
    Path("/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so"): "openjdk-17-jre-headless",
}
MIN_OBJECTS = 8
N_ADDRESSES = 3000
CALL_OBJECTS = ("libc.so.6", "libstdc++.so.6", "libcrypto.so.3", "python3.11", "perl", "git", "libjvm.so")
# Tables of constants in libcrypto's text look like calls to objdump too, and stand between functions.
DATA_IN_TEXT = {"libcrypto.so.3": 16}

_RBP, _RSP, _RETURN_ADDRESS = 6, 7, 16
_OP_DEREF, _OP_PLUS_UCONST, _OP_BREG0, _OP_BREGX, _OP_CFA = 0x06, 0x23, 0x70, 0x92, 0x9C
_PLT_ATOMS = (0x77, 0x80, 0x3F, 0x1A, None, 0x2A, 0x33, 0x24, 0x22)


class _Op(ctypes.Structure):
    """Dwarf_Op of libdw.h."""

    _fields_ = (
        ("atom", ctypes.c_uint8),
        ("number", ctypes.c_uint64),
        ("number2", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
    )


_Ops = list[tuple[int, int, int]]


class Oracle:
    """What libdw makes of an object's ``.eh_frame``.

    Source: libdw.h, dwarf_getcfi_elf and dwarf_frame_register.
    """

    def __init__(self, path: Path) -> None:
        pointer = ctypes.c_void_p
        self._dw = ctypes.CDLL("libdw.so.1")
        self._elf = ctypes.CDLL("libelf.so.1")
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [pointer]
        self._elf.elf_begin.restype = pointer
        self._elf.elf_begin.argtypes = [ctypes.c_int, ctypes.c_int, pointer]
        self._dw.dwarf_getcfi_elf.restype = pointer
        self._dw.dwarf_getcfi_elf.argtypes = [pointer]
        self._dw.dwarf_cfi_addrframe.argtypes = [pointer, ctypes.c_uint64, ctypes.POINTER(pointer)]
        self._elf.elf_version(1)
        self._fd = os.open(path, os.O_RDONLY)
        self._cfi = self._dw.dwarf_getcfi_elf(self._elf.elf_begin(self._fd, 1, None))
        assert self._cfi, f"libdw finds no CFI in {path}"

    def rule(self, address: int) -> int:
        """The word of the rule at an address."""
        frame = ctypes.c_void_p()
        if self._dw.dwarf_cfi_addrframe(self._cfi, address, ctypes.byref(frame)):
            return rules.NONE
        try:
            signal = ctypes.c_bool()
            low, high = ctypes.c_uint64(), ctypes.c_uint64()
            self._dw.dwarf_frame_info(frame, ctypes.byref(low), ctypes.byref(high), ctypes.byref(signal))
            return self._word(self._cfa(frame), self._register(frame, _RBP), self._return_address(frame), signal.value)
        finally:
            self._free(frame)

    def _word(self, cfa: _Ops, rbp: _Ops | None, return_address: str, is_signal: bool) -> int:
        if is_signal and cfa == [(_OP_BREG0 + _RSP, 160, 0), (_OP_DEREF, 0, 0)]:
            return rules.SIGNAL
        if return_address != "CFA-8":
            return rules.ROOT if return_address == "undefined" else rules.BAD
        fp_rule, fp_off = rules.FP_SAME, 0
        if rbp:
            if rbp[0][0] == _OP_CFA and len(rbp) <= 2 and all(op[0] == _OP_PLUS_UCONST for op in rbp[1:]):
                fp_rule, fp_off = rules.FP_AT_CFA, rbp[1][1] if len(rbp) == 2 else 0
            elif [op[0] for op in rbp] == [_OP_CFA, _OP_BREG0 + _RBP]:  # an expression begins with the CFA pushed
                fp_rule, fp_off = rules.FP_AT_FP, rbp[1][1]
            else:
                return rules.BAD
        kind, off = _cfa_rule(cfa)
        return rules.BAD if kind == rules.BAD else rules.pack_rule(kind, off, fp_rule, fp_off)

    def _cfa(self, frame: ctypes.c_void_p) -> _Ops:
        ops, n_ops = ctypes.POINTER(_Op)(), ctypes.c_size_t()
        failed = self._dw.dwarf_frame_cfa(frame, ctypes.byref(ops), ctypes.byref(n_ops))
        return [] if failed else _list(ops, n_ops.value)

    def _register(self, frame: ctypes.c_void_p, number: int) -> _Ops | None:
        """How a register is had; an empty list for "same value", None for "undefined"."""
        memory, ops, n_ops = (_Op * 3)(), ctypes.POINTER(_Op)(), ctypes.c_size_t()
        self._dw.dwarf_frame_register(frame, number, memory, ctypes.byref(ops), ctypes.byref(n_ops))
        if n_ops.value == 0:
            return None if ops else []
        return _list(ops, n_ops.value)

    def _return_address(self, frame: ctypes.c_void_p) -> str:
        ops = self._register(frame, _RETURN_ADDRESS)
        if ops is None:
            return "undefined"
        at_cfa_8 = [(_OP_CFA, 0, 0), (_OP_PLUS_UCONST, -8, 0)]
        return "CFA-8" if ops == at_cfa_8 else "elsewhere"


def _list(ops: ctypes._Pointer[_Op], n_ops: int) -> _Ops:
    return [(op.atom, _signed(op.number), _signed(op.number2)) for op in ops[:n_ops]]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _cfa_rule(cfa: _Ops) -> tuple[int, int]:
    atoms = [op[0] for op in cfa]
    if len(cfa) == 1 and atoms[0] in (_OP_BREGX, _OP_BREG0 + _RBP, _OP_BREG0 + _RSP):
        register, off = (cfa[0][1], cfa[0][2]) if atoms[0] == _OP_BREGX else (atoms[0] - _OP_BREG0, cfa[0][1])
        return {_RSP: rules.KIND_SP, _RBP: rules.KIND_FP}.get(register, rules.BAD), off
    if len(cfa) == len(_PLT_ATOMS) and all(want in (None, is_) for want, is_ in zip(_PLT_ATOMS, atoms, strict=True)):
        return rules.KIND_PLT, atoms[4] - 0x30
    if atoms[:2] == [_OP_BREG0 + _RBP, _OP_DEREF] and atoms[2:] in ([], [_OP_PLUS_UCONST]):
        off = rules.at_fp_off(cfa[0][1], cfa[2][1] if len(cfa) == 3 else 0)
        return (rules.BAD, 0) if off is None else (rules.KIND_AT_FP, off)
    return rules.BAD, 0


def _rule_at(rows: RowList, address: int) -> int:
    index = bisect_right(rows.starts, address) - 1
    return rows.words[index] if index >= 0 else rules.NONE


def _call_ends(path: Path) -> Iterator[int]:
    """Address of the last byte of each call and system call that objdump finds."""
    command = ["objdump", "-d", "--insn-width=15", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "call" not in line:  # in "syscall" too
                continue
            address, _, rest = line.partition(":\t")
            code, _, text = rest.partition("\t")
            if text and any(word.startswith("call") or word == "syscall" for word in text.split()[:4]):
                yield int(address, 16) + len(code.split()) - 1


def test_objects_enough_are_there() -> None:
    require(
        sum(path.exists() for path in OBJECTS) >= MIN_OBJECTS,
        f"fewer than {MIN_OBJECTS} large objects; install {' '.join(sorted(set(OBJECTS.values())))}",
    )


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_full_table_random_addresses_equal_to_libdw(path: Path) -> None:
    require(path.exists(), f"no {path}; install {OBJECTS[path]}")
    require(ctypes.util.find_library("dw"), "no libdw; install libdw1")
    table = build_table(FileSource(os.open(path, os.O_RDONLY)), full=True)
    assert table.reason == ""
    oracle = Oracle(path)
    with ElfFile.open(str(path)) as elf:
        text = text_ranges(elf)
        rows = full_rows(read_pieces(elf, text), text)
    chance = random.Random(path.name)
    addresses = [chance.randrange(*chance.choice(text)) for _ in range(N_ADDRESSES)]
    # Half of the addresses by row, so that prologues, rare forms and gaps have their share.
    addresses += [min(chance.choice(rows.starts), text[-1][1] - 1) for _ in range(N_ADDRESSES)]
    wrong = {
        hex(address): (rules.unpack_rule(found), rules.unpack_rule(expected))
        for address in addresses
        if (found := lookup(table.words, address)) != (expected := oracle.rule(address))
    }
    assert wrong == {}


@pytest.mark.parametrize("path", [path for path in OBJECTS if path.name in CALL_OBJECTS], ids=lambda path: path.name)
def test_call_site_table_each_call_has_the_rule_of_the_full_table(path: Path) -> None:
    require(path.exists(), f"no {path}; install {OBJECTS[path]}")
    require_program("objdump")
    with ElfFile.open(str(path)) as elf:
        text = text_ranges(elf)
        full = full_rows(read_pieces(elf, text), text)
        calls = call_site_rows(read_pieces(elf, text, MIN_MARK_BYTES), text, CallFinder(elf, text))
    ends = list(_call_ends(path))
    wrong = [hex(end) for end in ends if _rule_at(full, end) != _rule_at(calls, end)]
    assert len(ends) > 5000
    assert len(wrong) <= DATA_IN_TEXT.get(path.name, 0), wrong[:10]
    packed = build_table(FileSource(os.open(path, os.O_RDONLY))).words
    assert all(lookup(packed, end) == _rule_at(calls, end) for end in ends[:: max(1, len(ends) // 5000)])


def test_signal_trampoline_of_libc_is_a_signal_frame() -> None:
    path = LIBRARIES / "libc.so.6"
    require(path.exists(), f"no {path}; install {OBJECTS[path]}")
    table = build_table(FileSource(os.open(path, os.O_RDONLY)))
    code = path.read_bytes().find(b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05")  # mov $15, %rax; syscall
    with ElfFile.open(str(path)) as elf:
        start = elf.offset_to_vaddr(code)
    assert start is not None
    assert lookup(table.words, start) == rules.SIGNAL
    assert lookup(table.words, start - 1) == rules.SIGNAL  # its first byte is a return address
