"""Cookies of probes for kernels that keep none: each probe gets a program of its own in front of the one it is for.

That program is a handful of instructions: it writes the cookie where ours look for it, a place of this processor, and
goes on to ours by a tail call. Such kernels do not preempt a program, so nobody else writes there in between.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import bpf
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


class KeptCookies:
    """Where the kernel keeps cookies: the programs as they are loaded.

    Args:
        program_fd: Descriptor of a loaded program.
    """

    def __init__(self, program_fd: Callable[[str], int]) -> None:
        self.program_fd = program_fd

    @contextlib.contextmanager
    def at_probe(self, name: str, cookie: int) -> Iterator[tuple[int, int]]:
        """The program itself, and its cookie."""
        yield self.program_fd(name), cookie

    def close(self) -> None:
        """Nothing of its own is open."""


class CookiePrograms:
    """Where it keeps none: makes the programs in front.

    Args:
        libbpf: The library, to make a map.
        cookies: Descriptor of the map ``cookies``.
        program_fd: Descriptor of a loaded program.
        asking: Those that ask for a cookie.

    Raises:
        OSError: The kernel refuses.
    """

    def __init__(self, libbpf: Libbpf, cookies: int, program_fd: Callable[[str], int], asking: Sequence[str]) -> None:
        self.program_fd = program_fd
        self._cookies = cookies
        self._numbers = {name: number for number, name in enumerate(asking)}
        self._array = libbpf.create_map("nl_programs", _PROG_ARRAY, 4, 4, len(asking), 0)
        array = BpfMap(libbpf, "nl_programs", self._array, 4, 4)
        for name, number in self._numbers.items():
            array.update(_U32.pack(number), _U32.pack(program_fd(name)))

    @contextlib.contextmanager
    def at_probe(self, name: str, cookie: int) -> Iterator[tuple[int, int]]:
        """A new program in front of one that asks for its cookie; the kernel has none to keep.

        Raises:
            OSError: The kernel refuses.
        """
        if name not in self._numbers:
            yield self.program_fd(name), 0
            return
        code = self._code(self._numbers[name], cookie)
        fd = bpf.load_program(f"nl_{name}", bpf.PROG_KPROBE, code, 0)
        try:
            yield fd, 0
        finally:
            os.close(fd)  # the probe keeps the program

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
