"""Perf events: probes of their own in user programs, and tracepoints. The system call perf_event_open(2).

Errors come as ``OSError`` with the kernel's errno; callers turn them into advice.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

from nativeleak.engines.bpf.kernel.bpf import link_perf_event
from nativeleak.engines.bpf.kernel.system import control, number_of, system_call

_UPROBE_PMU: Final = "/sys/bus/event_source/devices/uprobe"
_TYPE_TRACEPOINT: Final = 2
_FLAG_FD_CLOEXEC: Final = 8
_IOC_ENABLE: Final = 0x2400
_IOC_SET_BPF: Final = 0x40042408
_ATTR_SIZE_VER5: Final = 112


def _open(attr: bytes, pid: int, cpu: int) -> int:
    buffer = ctypes.create_string_buffer(attr.ljust(_ATTR_SIZE_VER5, b"\0"), _ATTR_SIZE_VER5)
    return system_call(number_of("perf_event_open"), buffer, pid, cpu, -1, _FLAG_FD_CLOEXEC)


def has_uprobe_pmu() -> bool:
    """Whether perf events can make probes of their own in user programs."""
    return Path(_UPROBE_PMU, "type").exists()


def attach_uprobe(prog_fd: int, pid: int, path: str, offset: int, cookie: int, *, at_return: bool) -> list[int]:
    """Attach one program to one place in one process by a perf event; returns the descriptors that keep it there.

    Args:
        cookie: What ``bpf_get_attach_cookie`` gives in it; 0 on kernels that have none.

    Raises:
        OSError: As the kernel says; ENOENT where it has no such events.
    """
    kind = int(Path(_UPROBE_PMU, "type").read_text())
    bit = int(Path(_UPROBE_PMU, "format/retprobe").read_text().removeprefix("config:"))
    path_buffer = ctypes.create_string_buffer(os.fsencode(path))
    # struct perf_event_attr up to config2: the path and the offset in it are config1 and config2.
    attr = struct.pack(
        "<IIQQQQQIIQQ",
        kind,
        _ATTR_SIZE_VER5,
        (1 << bit) if at_return else 0,
        0,
        0,
        0,
        0,
        0,
        0,
        ctypes.addressof(path_buffer),
        offset,
    )
    return _run_or_close(prog_fd, _open(attr, pid, -1), cookie)


def open_tracepoint_of(pid: int, event_id: int) -> int:
    """A perf event of a tracepoint for one process, such as a probe that was defined in tracefs; its descriptor.

    Raises:
        OSError: As the kernel says.
    """
    return _open(struct.pack("<IIQ", _TYPE_TRACEPOINT, _ATTR_SIZE_VER5, event_id), pid, -1)


def attach_tracepoint(prog_fd: int, event_id: int) -> int:
    """Run a program at a tracepoint, for every process of the machine; returns the perf event's descriptor.

    Raises:
        OSError: The kernel refuses; EACCES without CAP_PERFMON.
    """
    attr = struct.pack("<IIQQQQQ", _TYPE_TRACEPOINT, _ATTR_SIZE_VER5, event_id, 1, 0, 0, 0)
    return _run_or_close(prog_fd, _open(attr, -1, 0), 0)[-1]


def run_at_event(prog_fd: int, event: int, cookie: int) -> list[int]:
    """Run a program at a perf event, and enable that; returns the descriptors that keep it so, the event's last.

    A program without a cookie needs no link, which kernels have for perf events since 5.15.

    Raises:
        OSError: As the kernel says; the event is still open.
    """
    if not cookie:
        control(event, _IOC_SET_BPF, prog_fd)
        control(event, _IOC_ENABLE, 0)
        return [event]
    link = link_perf_event(prog_fd, event, cookie)
    try:
        control(event, _IOC_ENABLE, 0)
    except OSError:
        os.close(link)
        raise
    return [link, event]


def _run_or_close(prog_fd: int, event: int, cookie: int) -> list[int]:
    try:
        return run_at_event(prog_fd, event, cookie)
    except OSError:
        os.close(event)
        raise
