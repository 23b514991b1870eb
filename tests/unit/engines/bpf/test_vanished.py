"""Probes that vanish: found in the memory of this process, which has a file mapped as code."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativeleak import arch
from nativeleak.engines.bpf.kernel.groups import ALL_GROUPS, FREES_ONLY, Close, Group, ProbeGroups
from nativeleak.engines.bpf.vanished import VanishedProbes
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.placement import PlacedProbe, Placement
from nativeleak.process.mapped import MappedObject, executable_objects
from nativeleak.process.procfs import read_maps

pytestmark = pytest.mark.skipif(arch.here() is not arch.X86_64, reason="plants breakpoints of x86-64")

N_BYTES = 4096
CODE = bytes(range(1, 129)) * 32
MALLOC, FREE = 16, 64
FIXED = 0x10
PLACED = [
    PlacedProbe(ProbePoint(call.spec.name, call, offset), Placement(0, emulated=True, instruction=""))
    for call, offset in ((AllocCall.MALLOC, MALLOC), (AllocCall.FREE, FREE))
]
OWNER = (3, "code")

LIBRARY = ctypes.CDLL(None, use_errno=True)
LIBRARY.mmap.restype = ctypes.c_void_p
LIBRARY.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
LIBRARY.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
ALL = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


class Code:
    """A file that is mapped as code, with two probes, whose breakpoints are planted here."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(CODE)
        self.fd = os.open(path, os.O_RDONLY)
        self.address = LIBRARY.mmap(None, N_BYTES, ALL, mmap.MAP_PRIVATE, self.fd, 0)
        self.is_mapped, self.takes = True, True
        self.notes: list[str] = []
        self.groups = ProbeGroups()
        self.groups.add(Group.FREES, lambda: self._plant(FREE), owner=OWNER)
        self.groups.add(Group.ALLOCATIONS, lambda: self._plant(MALLOC), owner=OWNER)
        (mapped,) = (o for o in executable_objects(os.getpid(), read_maps(os.getpid())) if o.path == str(path))
        self.mapped: MappedObject = mapped
        self.vanished = VanishedProbes(self.groups, lambda what, text: self.notes.append(f"{what}: {text}"))
        self.vanished.add(3, os.getpid(), mapped, "code", self.fd, PLACED, 0.5)

    def _plant(self, offset: int) -> list[Close]:
        if self.takes:
            ctypes.memset(self.address + offset, 0xCC, 1)
        return [lambda: self.restore(offset)]

    def restore(self, offset: int) -> None:
        ctypes.memset(self.address + offset, CODE[offset], 1)

    def bytes_at_probes(self) -> bytes:
        return ctypes.string_at(self.address + MALLOC, 1) + ctypes.string_at(self.address + FREE, 1)

    def unmap(self) -> None:
        self.is_mapped = False
        LIBRARY.munmap(self.address, N_BYTES)

    def close(self) -> None:
        self.vanished.close()
        if self.is_mapped:
            self.unmap()
        os.close(self.fd)


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Code]:
    made = Code(tmp_path / "code.so")
    yield made
    made.close()


def test_probes_that_are_there_are_not_told(code: Code) -> None:
    code.vanished.look(1.0, [3])
    assert (code.notes, code.vanished.n_lost) == ([], 0)


def test_probe_that_is_gone_is_put_back_and_told_with_the_time(code: Code) -> None:
    code.vanished.look(1.0, [3])
    code.restore(MALLOC)
    code.vanished.look(2.0, [3])
    assert code.bytes_at_probes() == b"\xcc\xcc"
    assert code.notes == [
        f"blind: 1 probe of malloc in code.so was gone from the target (PID {os.getpid()}) between 1.0 s and 2.0 s: "
        "calls meanwhile are missing; they were put back"
    ]
    code.vanished.look(3.0, [3])
    assert (len(code.notes), code.vanished.n_lost) == (1, 1)


def test_probe_that_does_not_stay_is_told_once(code: Code) -> None:
    code.takes = False
    code.restore(MALLOC)
    for now_s in (1.0, 2.0):
        code.vanished.look(now_s, [3])
    assert code.vanished.n_lost >= 1
    assert "from 0.5 s on: later calls are missing; they cannot be put back" in code.notes[0]


def test_probe_of_a_group_that_is_not_attached_is_not_missed(code: Code) -> None:
    code.groups.want(FREES_ONLY)
    code.vanished.look(1.0, [3])
    assert code.bytes_at_probes() == bytes([CODE[MALLOC], 0xCC])
    assert (code.notes, code.vanished.n_lost) == ([], 0)


def test_target_that_does_not_run_is_not_looked_at(code: Code) -> None:
    code.restore(MALLOC)
    code.vanished.look(1.0, [])
    assert code.notes == []


def test_object_that_was_unmapped_is_forgotten_not_blamed(code: Code) -> None:
    code.unmap()
    code.vanished.look(1.0, [3])
    assert (code.notes, code.vanished.n_lost) == ([], 0)


def test_object_that_is_mapped_elsewhere_is_looked_at_there(code: Code) -> None:
    code.unmap()
    code.address = LIBRARY.mmap(None, N_BYTES, ALL, mmap.MAP_PRIVATE, code.fd, 0)
    code.is_mapped = True
    (mapped,) = (o for o in executable_objects(os.getpid(), read_maps(os.getpid())) if o.key == code.mapped.key)
    code.vanished.see(3, [mapped])
    code.vanished.look(1.0, [3])
    assert code.vanished.n_lost == 2
    assert code.bytes_at_probes() == b"\xcc\xcc"


def test_code_that_was_replaced_by_a_copy_is_told_and_not_put_back(code: Code) -> None:
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | FIXED
    assert LIBRARY.mmap(code.address, N_BYTES, ALL, anonymous, -1, 0) == code.address
    ctypes.memmove(code.address, CODE, N_BYTES)
    for now_s in (1.0, 2.0):
        code.vanished.look(now_s, [3])
    assert code.notes == [
        f"blind: 2 probes of free, malloc in code.so were gone from the target (PID {os.getpid()}) from 0.5 s on: "
        "later calls are missing; they cannot be put back: the code was replaced by a copy"
    ]
    assert code.vanished.n_lost == 2
    assert code.bytes_at_probes() == bytes([CODE[MALLOC], CODE[FREE]])


def test_code_that_was_replaced_between_windows_is_told_at_the_end_of_the_next_one(code: Code) -> None:
    moments = iter((2.0, 5.0))
    code.groups.on_leave = lambda: code.vanished.look(next(moments), [3])
    code.vanished.look(1.0, [3])
    code.groups.want(frozenset())
    assert (
        LIBRARY.mmap(code.address, N_BYTES, ALL, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | FIXED, -1, 0) == code.address
    )
    ctypes.memmove(code.address, CODE, N_BYTES)
    code.takes = False
    code.vanished.look(3.0, [3])
    assert code.notes == []
    code.groups.want(ALL_GROUPS)
    code.groups.want(FREES_ONLY)
    assert code.notes == [
        f"blind: 2 probes of free, malloc in code.so were gone from the target (PID {os.getpid()}) from 2.0 s on: "
        "later calls are missing; they cannot be put back: the code was replaced by a copy"
    ]


def test_a_look_at_thirty_places_takes_less_than_a_fifth_of_a_millisecond(code: Code) -> None:
    placed = [PLACED[1]] * 30
    code.vanished.add(3, os.getpid(), code.mapped, "code", code.fd, placed, 0.0)
    times = []
    for _ in range(50):
        started_s = time.perf_counter()
        code.vanished.look(1.0, [3])
        times.append(time.perf_counter() - started_s)
    assert min(times) < 0.0002
    assert code.notes == []
