"""Cookies of probes for kernels that keep none: each probe gets a program of its own in front of the one it is for.

That program is a handful of instructions: it writes the cookie where ours look for it, a place of this processor, and
goes on to ours by a tail call. Such kernels do not preempt a program, so nobody else writes there in between.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import perf
from nativeleak.engines.bpf.kernel.instructions import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R10,
    Helper,
    add,
    call,
    leave,
    load_map,
    move,
    set_register,
    set_register_64,
    skip_if_zero,
    store,
    store_value,
)
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap, Libbpf

_PROG_ARRAY: Final = 3
_U32: Final = struct.Struct("=I")


class CookiePrograms:
    """Makes them.

    Args:
        libbpf: The library, to make a map.
        cookies: Descriptor of the map ``cookies``.
        programs: Those that ask for a cookie: name and descriptor.

    Raises:
        OSError: The kernel refuses.
    """

    def __init__(self, libbpf: Libbpf, cookies: int, programs: Mapping[str, int]) -> None:
        self._cookies = cookies
        self._numbers = {name: number for number, name in enumerate(programs)}
        self._array = libbpf.create_map("nl_programs", _PROG_ARRAY, 4, 4, len(programs), 0)
        array = BpfMap(libbpf, "nl_programs", self._array, 4, 4)
        for name, fd in programs.items():
            array.update(_U32.pack(self._numbers[name]), _U32.pack(fd))

    def make(self, program: str, cookie: int) -> int:
        """Descriptor of a new program that goes on with a cookie to one that asks for it.

        Raises:
            OSError: The kernel refuses.
        """
        return perf.load_program(f"nl_{program}", perf.PROG_KPROBE, self._code(self._numbers[program], cookie), 0)

    def asks(self, program: str) -> bool:
        """Whether a program asks for a cookie."""
        return program in self._numbers

    def close(self) -> None:
        """To be called when nothing is attached any more: a tail call needs the array's descriptor."""
        if self._array >= 0:
            os.close(self._array)
            self._array = -1

    def _code(self, number: int, cookie: int) -> bytes:
        pieces: Sequence[bytes] = (
            move(R6, R1),
            store_value(R10, -4, 0),
            move(R2, R10),
            add(R2, -4),
            load_map(R1, self._cookies),
            call(Helper.MAP_LOOKUP_ELEM),
            skip_if_zero(
                R0,
                set_register_64(R1, cookie)
                + store(R0, 0, R1)
                + move(R1, R6)
                + load_map(R2, self._array)
                + set_register(R3, number)
                + call(Helper.TAIL_CALL),
            ),
            set_register(R0, 0),
            leave(),
        )
        return b"".join(pieces)
