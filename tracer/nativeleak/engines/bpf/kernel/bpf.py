"""The system call bpf(2), as far as libbpf 1.1 has no function for it: links to many probes, links to perf events.

And loading and attaching programs that libbpf knows nothing of: BCC's, and those that we put together ourselves.

Errors come as ``OSError`` with the kernel's errno; callers turn them into advice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Final

from nativeleak.engines.bpf.kernel.system import number_of, system_call

ATTACH_UPROBE_MULTI: Final = 48
"""``BPF_TRACE_UPROBE_MULTI`` (Linux 6.6)."""
ATTACH_UPROBE_SESSION: Final = 57
"""``BPF_TRACE_UPROBE_SESSION`` (Linux 6.13)."""

PROG_KPROBE: Final = 2
PROG_TRACEPOINT: Final = 5
PROG_RAW_TRACEPOINT: Final = 17
PROG_TRACING: Final = 26
"""Kinds of programs: ``enum bpf_prog_type``."""

_PROG_LOAD: Final = 5
_PROG_TEST_RUN: Final = 10
_RAW_TRACEPOINT_OPEN: Final = 17
_LINK_CREATE: Final = 28
_ENABLE_STATS: Final = 32
_ITER_CREATE: Final = 33
_PERF_EVENT: Final = 41
_LOG_BYTES: Final = 1 << 20
_UPROBE_MULTI_RETURN: Final = 1
_MEMBARRIER_GLOBAL: Final = 1
"""``MEMBARRIER_CMD_GLOBAL``: waits for an RCU grace period."""


def _bpf(command: int, attr: bytes) -> int:
    return system_call(number_of("bpf"), command, ctypes.create_string_buffer(attr, len(attr)), len(attr))


# Programs


class VerifierError(OSError):
    """The kernel refused a program; ``log`` is the last it said of it."""

    log = ""


def load_program(name: str, kind: int, code: bytes, attach_type: int, *, is_explained: bool = True) -> int:
    """Load one program; returns its descriptor.

    Args:
        code: Instructions, with descriptors of maps in them.
        attach_type: Kind of link it will be attached by, 0 for others.
        is_explained: Whether the kernel is asked why, where it refuses it.

    Raises:
        VerifierError: The kernel refused it.
    """
    log = ctypes.create_string_buffer(_LOG_BYTES)
    for log_level in (0, 1) if is_explained else (0,):
        place = (log_level, _LOG_BYTES, ctypes.addressof(log)) if log_level else (0, 0, 0)
        try:
            return _load(name, kind, code, attach_type, log=place)
        except OSError as error:
            failure = VerifierError(error.errno, f"load of program {name}: {error.strerror}")
            lines = log.value.decode(errors="replace").splitlines()
            failure.log = " ".join(lines[-2:])
    raise failure


def load_tracing_program(name: str, code: bytes, attach_type: int, btf_id: int) -> int:
    """Load a program for a function of the kernel, named by its number in the kernel's BTF; returns its descriptor.

    Raises:
        OSError: The kernel refused it.
    """
    return _load(name, PROG_TRACING, code, attach_type, btf_id=btf_id)


def _load(
    name: str, kind: int, code: bytes, attach_type: int, *, log: tuple[int, int, int] = (0, 0, 0), btf_id: int = 0
) -> int:
    """``BPF_PROG_LOAD``; ``log`` is level, size and address."""
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence)),
        *log,
        *(0, 0, name.encode()[:15]),
        *(0, attach_type, 0, 0, 0, 0, 0, 0, 0, btf_id),
    )
    return _bpf(_PROG_LOAD, attr)


def run_program(prog_fd: int) -> None:
    """Run a program for raw tracepoints once, here and now; it must not read its context.

    Raises:
        OSError: EINVAL or EOPNOTSUPP before Linux 5.10.
    """
    _bpf(_PROG_TEST_RUN, struct.pack("<I76x", prog_fd))


def wait_for_programs() -> None:
    """Wait until every program that is running now has ended, sleepable ones left out.

    They run inside an RCU read-side section, and membarrier(2) waits for a grace period.

    Raises:
        OSError: EINVAL where the kernel runs with ``nohz_full``.
    """
    system_call(number_of("membarrier"), _MEMBARRIER_GLOBAL, 0, 0)


def run_statistics() -> int:
    """Have the kernel count how long BPF programs run, until the descriptor that this returns is closed.

    Costs each run of every program some 20 ns meanwhile.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; EINVAL before Linux 5.8.
    """
    return _bpf(_ENABLE_STATS, struct.pack("<I", 0))


def read_fdinfo(fd: int) -> dict[str, str]:
    """What the kernel says of a descriptor of ours: programs, maps and links have facts of their own there."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        pairs = (line.partition(":") for line in info)
        return {name: value.strip() for name, _, value in pairs}


# Links


def link_uprobes(
    prog_fd: int,
    attach_type: int,
    path: str,
    offsets: Sequence[int],
    cookies: Sequence[int],
    pid: int,
    *,
    at_return: bool = False,
) -> int:
    """Attach one program to many places of one file in one process; returns the link's descriptor.

    Args:
        offsets: File offsets, one a probe.
        cookies: What ``bpf_get_attach_cookie`` gives in each.

    Raises:
        OSError: EINVAL where the kernel has no such links, or another tracer holds one of the places.
    """
    n = len(offsets)
    offset_array, cookie_array = (ctypes.c_ulong * n)(*offsets), (ctypes.c_uint64 * n)(*cookies)
    path_buffer = ctypes.create_string_buffer(os.fsencode(path))
    attr = struct.pack(
        "<IIIIQQQQIII4x",
        prog_fd,
        0,
        attach_type,
        0,
        ctypes.addressof(path_buffer),
        ctypes.addressof(offset_array),
        0,
        ctypes.addressof(cookie_array),
        n,
        _UPROBE_MULTI_RETURN if at_return else 0,
        pid,
    )
    return _bpf(_LINK_CREATE, attr)


def has_uprobe_links(prog_fd: int, attach_type: int) -> bool:
    """Tell whether a loaded program can be linked to many places, for one process.

    That it was loaded for it says nothing: a kernel without such links does not look at the attach type. A probe in a
    folder is tried, which is refused with EBADF where there are such links; and one for process -1, which is refused
    with EINVAL only since a process is meant and not a thread (46ba0e49b642, Linux 6.10 and some 6.6).
    Source: libbpf, features.c, probe_uprobe_multi_link.
    """
    return [_refusal_of_link(prog_fd, attach_type, pid) for pid in (0, 0xFFFF_FFFF)] == [errno.EBADF, errno.EINVAL]


def _refusal_of_link(prog_fd: int, attach_type: int, pid: int) -> int:
    try:
        os.close(link_uprobes(prog_fd, attach_type, "/", [0], [0], pid))
    except OSError as error:
        return error.errno or 0
    return 0


def link_perf_event(prog_fd: int, event: int, cookie: int) -> int:
    """Run a program at a perf event, with a cookie (Linux 5.15); returns the link's descriptor.

    Raises:
        OSError: As the kernel says.
    """
    return _bpf(_LINK_CREATE, struct.pack("<IIIIQ", prog_fd, event, _PERF_EVENT, 0, cookie))


def attach_raw_tracepoint(prog_fd: int, tracepoint: str) -> int:
    """Run a program at a raw tracepoint; returns the link's descriptor.

    Raises:
        OSError: ENOENT where the kernel has no such tracepoint.
    """
    name = ctypes.create_string_buffer(tracepoint.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", ctypes.addressof(name), prog_fd))


def link_iterator(prog_fd: int, attach_type: int) -> int:
    """Attach a program to the kernel's iterator that it was loaded for (Linux 5.8); returns the link's descriptor.

    Raises:
        OSError: As the kernel says.
    """
    return _bpf(_LINK_CREATE, struct.pack("<IIIIQI4x", prog_fd, 0, attach_type, 0, 0, 0))


def start_iterator(link_fd: int) -> int:
    """Begin one pass of an iterator; returns a descriptor that reads what the program writes.

    Raises:
        OSError: As the kernel says.
    """
    return _bpf(_ITER_CREATE, struct.pack("<II", link_fd, 0))


def attach_fentry(prog_fd: int) -> int:
    """Run a program at the function of the kernel that it was loaded for; returns the link's descriptor.

    Raises:
        OSError: As the kernel says.
    """
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", 0, prog_fd))
