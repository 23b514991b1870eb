"""The system calls that libbpf 1.1 has no function for: multi-probe links, perf events, a private tracefs.

And those that load and attach programs which libbpf knows nothing of: BCC's.

Errors come as ``OSError`` with the kernel's errno; callers turn them into advice.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nativeleak.engines.bpf.kernel.instructions import R0, leave, set_register

ATTACH_UPROBE_MULTI: Final = 48
"""``BPF_TRACE_UPROBE_MULTI`` (Linux 6.6)."""
ATTACH_UPROBE_SESSION: Final = 57
"""``BPF_TRACE_UPROBE_SESSION`` (Linux 6.13)."""

PROG_KPROBE: Final = 2
PROG_TRACEPOINT: Final = 5
PROG_RAW_TRACEPOINT: Final = 17
PROG_TRACING: Final = 26
"""Kinds of programs: ``enum bpf_prog_type``."""

_TRACE_FENTRY: Final = 24
_BTF_ID_OF_NO_FUNCTION: Final = 1
"""The first type that a kernel describes is an integer."""
_BPF_PROG_LOAD: Final = 5
_BPF_RAW_TRACEPOINT_OPEN: Final = 17
_BPF_LINK_CREATE: Final = 28
_BPF_ENABLE_STATS: Final = 32
_BPF_PERF_EVENT: Final = 41
_LOG_BYTES: Final = 1 << 20
_UPROBE_MULTI_RETURN: Final = 1
_UPROBE_PMU: Final = "/sys/bus/event_source/devices/uprobe"
_PERF_TYPE_TRACEPOINT: Final = 2
_PERF_FLAG_FD_CLOEXEC: Final = 8
_PERF_EVENT_IOC_ENABLE: Final = 0x2400
_PERF_EVENT_IOC_SET_BPF: Final = 0x40042408
_PERF_ATTR_SIZE_VER5: Final = 112
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1

# Source: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h (arm64).
_SYSCALLS: Final = {
    "x86_64": {"bpf": 321, "perf_event_open": 298},
    "aarch64": {"bpf": 280, "perf_event_open": 241},
}
_NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 430, 431, 432  # the same on every architecture

_CLOCK_MONOTONIC_COARSE: Final = 6
"""Source: include/uapi/linux/time.h. It goes on by the kernel's tick, and its resolution says how long that is."""

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *args: int | ctypes.Array[ctypes.c_char] | None) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _number(name: str) -> int:
    machine = platform.machine()
    if machine not in _SYSCALLS:
        raise OSError(errno.ENOSYS, f"no system call numbers known for {machine}")
    return _SYSCALLS[machine][name]


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
    buffer = ctypes.create_string_buffer(attr, len(attr))
    return _syscall(_number("bpf"), _BPF_LINK_CREATE, buffer, len(attr))


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
    instructions = ctypes.create_string_buffer(code, len(code))
    licence, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(_LOG_BYTES)
    for log_level in (0, 1) if is_explained else (0,):
        attr = struct.pack(
            "<IIQQIIQII16sII",
            kind,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            log_level,
            _LOG_BYTES if log_level else 0,
            ctypes.addressof(log) if log_level else 0,
            0,
            0,
            name.encode()[:15],
            0,
            attach_type,
        )
        try:
            return _syscall(_number("bpf"), _BPF_PROG_LOAD, ctypes.create_string_buffer(attr, len(attr)), len(attr))
        except OSError as error:
            failure = VerifierError(error.errno, f"load of program {name}: {error.strerror}")
            lines = log.value.decode(errors="replace").splitlines()
            failure.log = " ".join(lines[-2:])
    raise failure


def may_load_fentry() -> bool:
    """Whether the kernel lets us have programs at its functions: some are locked down to refuse them.

    Asked is for a program at what is no function: refused as wrong where such programs are not refused as such.
    """
    code = set_register(R0, 0) + leave()
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        *(PROG_TRACING, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0, b"nl_try"),
        *(0, _TRACE_FENTRY, 0, 0, 0, 0, 0, 0, 0, _BTF_ID_OF_NO_FUNCTION),
    )
    try:
        os.close(_syscall(_number("bpf"), _BPF_PROG_LOAD, ctypes.create_string_buffer(attr, len(attr)), len(attr)))
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES)
    return True


def attach_fentry(prog_fd: int) -> int:
    """Run a program at the function of the kernel that it was loaded for; returns the link's descriptor.

    Raises:
        OSError: As the kernel says.
    """
    attr = struct.pack("<QI4x", 0, prog_fd)
    return _syscall(_number("bpf"), _BPF_RAW_TRACEPOINT_OPEN, ctypes.create_string_buffer(attr, len(attr)), len(attr))


def may_be_preempted() -> bool:
    """Whether the kernel may take the CPU from a program that runs; True where it does not say.

    A trampoline's program is left out where it is already running on the same CPU: that is where it was preempted, by a
    thread that makes the same call. Source: ``__bpf_prog_enter_recur`` in kernel/bpf/trampoline.c.
    """
    version = os.uname().version
    if "PREEMPT" not in version:
        return False
    if "PREEMPT_DYNAMIC" not in version:
        return True
    try:
        found = re.search(r"\((\w+)\)", _read_debug_file("sched/preempt"))
    except OSError:
        return True
    return found is None or found[1] not in ("none", "voluntary")


def _read_debug_file(name: str) -> str:
    """A file of debugfs: the host's, else that of an own mount that nobody else sees."""
    with contextlib.suppress(OSError):
        return Path("/sys/kernel/debug", name).read_text()
    folder = mount_privately("debugfs")
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)) as file:
            return file.read()
    finally:
        os.close(folder)


def mount_privately(kind: str) -> int:
    """A file system of the kernel's own, mounted in no namespace: gone with the descriptor, which is returned.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN.
    """
    fs_fd = _syscall(_NR_FSOPEN, ctypes.create_string_buffer(kind.encode()), _FSOPEN_CLOEXEC)
    try:
        _syscall(_NR_FSCONFIG, fs_fd, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_NR_FSMOUNT, fs_fd, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(fs_fd)


def attach_raw_tracepoint(prog_fd: int, tracepoint: str) -> int:
    """Run a program at a raw tracepoint; returns the link's descriptor.

    Raises:
        OSError: ENOENT where the kernel has no such tracepoint.
    """
    name = ctypes.create_string_buffer(tracepoint.encode())
    attr = struct.pack("<QI4x", ctypes.addressof(name), prog_fd)
    return _syscall(_number("bpf"), _BPF_RAW_TRACEPOINT_OPEN, ctypes.create_string_buffer(attr, len(attr)), len(attr))


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
        _PERF_ATTR_SIZE_VER5,
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
    buffer = ctypes.create_string_buffer(attr.ljust(_PERF_ATTR_SIZE_VER5, b"\0"), _PERF_ATTR_SIZE_VER5)
    event = _syscall(_number("perf_event_open"), buffer, pid, -1, -1, _PERF_FLAG_FD_CLOEXEC)
    try:
        return run_at_event(prog_fd, event, cookie)
    except OSError:
        os.close(event)
        raise


def has_uprobe_pmu() -> bool:
    """Whether perf events can make probes of their own in user programs."""
    return Path(_UPROBE_PMU, "type").exists()


def run_at_event(prog_fd: int, event: int, cookie: int) -> list[int]:
    """Run a program at a perf event, and enable that; returns the descriptors that keep it so, the event's last.

    A program without a cookie needs no link, which kernels have for perf events since 5.15.

    Raises:
        OSError: As the kernel says; the event is still open.
    """
    if not cookie:
        _set_event(event, _PERF_EVENT_IOC_SET_BPF, prog_fd)
        _set_event(event, _PERF_EVENT_IOC_ENABLE, 0)
        return [event]
    attr = struct.pack("<IIIIQ", prog_fd, event, _BPF_PERF_EVENT, 0, cookie)
    link = _syscall(_number("bpf"), _BPF_LINK_CREATE, ctypes.create_string_buffer(attr, len(attr)), len(attr))
    try:
        _set_event(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(link)
        raise
    return [link, event]


def _set_event(event: int, request: int, argument: int) -> None:
    if _libc.ioctl(event, ctypes.c_ulong(request), ctypes.c_ulong(argument)) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def open_tracepoint_of(pid: int, event_id: int) -> int:
    """A perf event of a tracepoint, a probe that was defined in tracefs for one, for one process; its descriptor.

    Raises:
        OSError: As the kernel says.
    """
    attr = struct.pack("<IIQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTR_SIZE_VER5, event_id)
    buffer = ctypes.create_string_buffer(attr.ljust(_PERF_ATTR_SIZE_VER5, b"\0"), _PERF_ATTR_SIZE_VER5)
    return _syscall(_number("perf_event_open"), buffer, pid, -1, -1, _PERF_FLAG_FD_CLOEXEC)


def has_uprobe_links(prog_fd: int, attach_type: int) -> bool:
    """Tell whether a loaded program can be linked to many places, for one process.

    That it was loaded for it says nothing: a kernel without such links does not look at the attach type. Asked is for a
    probe in a folder, which is refused with EBADF where there are such links, and for process -1, which is refused with
    EINVAL only since a process is meant and not a thread (46ba0e49b642, Linux 6.10 and some 6.6).
    Source: libbpf, features.c, probe_uprobe_multi_link.
    """
    return [_refusal_of_link(prog_fd, attach_type, pid) for pid in (0, 0xFFFF_FFFF)] == [errno.EBADF, errno.EINVAL]


def _refusal_of_link(prog_fd: int, attach_type: int, pid: int) -> int:
    try:
        os.close(link_uprobes(prog_fd, attach_type, "/", [0], [0], pid))
    except OSError as error:
        return error.errno or 0
    return 0


def attach_tracepoint(prog_fd: int, event_id: int) -> int:
    """Run a program at a tracepoint, for every process of the machine; returns the perf event's descriptor.

    Raises:
        OSError: The kernel refuses; EACCES without CAP_PERFMON.
    """
    attr = struct.pack("<IIQQQQQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTR_SIZE_VER5, event_id, 1, 0, 0, 0)
    buffer = ctypes.create_string_buffer(attr.ljust(_PERF_ATTR_SIZE_VER5, b"\0"), _PERF_ATTR_SIZE_VER5)
    fd = _syscall(_number("perf_event_open"), buffer, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    try:
        run_at_event(prog_fd, fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_tick_ns() -> int:
    """Nanoseconds from one tick of the kernel's clock (``jiffies``) to the next; 0 where it does not say."""
    try:
        return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
    except OSError:
        return 0


def run_statistics() -> int:
    """Have the kernel count how long BPF programs run, until the descriptor that this returns is closed.

    Costs each run of every program some 20 ns meanwhile.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; EINVAL before Linux 5.8.
    """
    attr = ctypes.create_string_buffer(struct.pack("<I", 0), 4)
    return _syscall(_number("bpf"), _BPF_ENABLE_STATS, attr, 4)


def read_fdinfo(fd: int) -> dict[str, str]:
    """What the kernel says of a descriptor of ours."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        pairs = (line.partition(":") for line in info)
        return {name: value.strip() for name, _, value in pairs}


class Tracefs:
    """The tracing file system: the host's where it is mounted, else an own mount that nobody else sees.

    A minimal host has none mounted, and tracepoints have no id without it. ``fsmount`` gives a mount that is in no
    namespace: the host stays as it was, and it is gone with its descriptor.

    Raises:
        OSError: It is not mounted and may not be: EPERM without CAP_SYS_ADMIN.
    """

    def __init__(self) -> None:
        self.private = False
        self._dir_fd = -1
        for folder in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
            if Path(folder, "events").is_dir():
                self._dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                return
        self._dir_fd = mount_privately("tracefs")
        self.private = True

    def event_id(self, event: str) -> int:
        """Id of ``syscalls/sys_enter_mmap``.

        Raises:
            OSError: ENOENT where the kernel has no such event.
        """
        fd = self.open(f"events/{event}/id", os.O_RDONLY)
        try:
            return int(os.read(fd, 32))
        finally:
            os.close(fd)

    def open(self, name: str, flags: int) -> int:
        """Open a file of it; returns the descriptor.

        Raises:
            OSError: There is none, or it may not be opened so.
        """
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._dir_fd)

    def close(self) -> None:
        """Let go of the mount."""
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1
