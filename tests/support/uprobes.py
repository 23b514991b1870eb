"""Uprobes of another tracer, each with a reference counter: the kernel lets nobody else share their places."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nativeleak.symbols.functions import find_function_offsets

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_TRIED_BYTES = 16
"""Wherever a tracer may put its probe at the beginning of a function."""


@contextmanager
def counted_probes(program: Path, functions: Sequence[str], pid: int) -> Iterator[list[int]]:
    """Probes over the beginning of each function; gives the offsets that the kernel refuses.

    The counter is at no place that can be written, which only puts it off. A place that is none, inside of an
    instruction, must not be run by the process meanwhile.

    Source: struct perf_event_attr in linux/perf_event.h; config and config1, config2 of the uprobe PMU in
    /sys/bus/event_source/devices/uprobe/format and kernel/events/core.c.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kind = int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())
    path = ctypes.create_string_buffer(os.fsencode(program))
    fds: list[int] = []
    refused: list[int] = []
    try:
        for start in find_function_offsets(str(program), functions).values():
            for offset in range(start, start + _TRIED_BYTES):
                attr = struct.pack("=IIQQQQQIIQQ", kind, 72, 16 << 32, 0, 0, 0, 0, 0, 0, ctypes.addressof(path), offset)
                fd = libc.syscall(_PERF_EVENT_OPEN[platform.machine()], attr, pid, -1, -1, 0)
                if fd >= 0:
                    fds.append(fd)
                else:
                    refused.append(offset)
        assert fds
        yield refused
    finally:
        for fd in fds:
            os.close(fd)


def places_taken(program: Path, functions: Sequence[str]) -> list[int]:
    """Offsets at which any tracer holds a probe, or the kernel has kept one that it could not remove.

    Nothing is put into any process: the one that the probes are for, our own, must not have the program mapped.
    """
    assert str(program) not in Path("/proc/self/maps").read_text()
    with counted_probes(program, functions, os.getpid()) as refused:
        return refused
