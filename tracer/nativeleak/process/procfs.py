"""What /proc says about a process: mappings, threads, state, identity.

Scope: parsers take text and do no I/O; readers open one file each and turn the kernel's answers into the errors that a
user can act on. Everything here is a moment's truth: the process may be gone at the next call, or its PID may belong
to another process, which ``read_start_ticks`` tells apart.

Source: Documentation/filesystems/proc.rst and proc(5).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from nativeleak.errors import CannotTraceError, NoTargetError

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PTRACE_REMEDY: Final = (
    "Run as root, or with CAP_SYS_PTRACE; in a container also with the host's PID namespace "
    "(docker run --pid=host --cap-add SYS_PTRACE)."
)
"""What lets one process look into another's /proc files (ptrace access mode checks, ptrace(2))."""

_MAPS_LINE: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d{1,20}) *(.*)", re.DOTALL)
_MAPS_BUFFER_BYTES: Final = 1 << 16
_DELETED: Final = " (deleted)"
_GONE: Final = (errno.ENOENT, errno.ESRCH)
_DENIED: Final = (errno.EACCES, errno.EPERM)
_PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat counted from the one after the name, which is field 3 in proc(5).
_STAT_STATE, _STAT_FLAGS, _STAT_UTIME, _STAT_STIME, _STAT_START = 0, 6, 11, 12, 19
_MAX_WAITING: Final = 64
_CPUCLOCK_SCHED: Final = 2
"""Clock of the CPU time of a process: with its PID, ``clock_getcpuclockid(3)``; include/linux/posix-timers.h."""
_STAT_START_BRK: Final = 44  # since Linux 3.5


class TargetGoneError(NoTargetError):
    """The process or thread was there and is no more."""


class MapEntry(NamedTuple):
    """One line of /proc/PID/maps.

    Attributes:
        start: First address.
        end: First address behind it.
        perms: Four letters: ``r-xp``.
        offset: Place in the file of ``start``, bytes.
        dev: Device of the file, ``fd:01``, as the kernel prints it; ``00:00`` for anonymous memory.
        inode: Inode of the file; 0 for anonymous memory.
        path: As the target's root sees it, without `` (deleted)``; ``[heap]`` and the like; empty for anonymous memory.
            Bytes that are no UTF-8 are kept as surrogates, so that the path can be opened.
        deleted: The kernel says that the file has no name any more.
    """

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    inode: int
    path: str
    deleted: bool

    @property
    def executable(self) -> bool:
        """Whether code can run in it."""
        return self.perms[2:3] == "x"


def parse_maps(text: str) -> list[MapEntry]:
    r"""The lines of a /proc/PID/maps, in address order; lines that make no sense are left out.

    Of all characters the kernel escapes only the newline here, not the backslash: a file whose name really holds
    ``\012`` looks like one with a newline in it.

    Source: show_map_vma() in fs/proc/task_mmu.c.
    """
    known: dict[str, str] = {}
    return [entry for entry in (_parse_maps_line(line, known) for line in text.split("\n")) if entry is not None]


def _parse_maps_line(line: str, known: dict[str, str]) -> MapEntry | None:
    """One mapping, None for a line that makes no sense.

    Args:
        line: Without its newline.
        known: Devices and paths seen so far, so that mappings of one file share theirs: a path may have 4 KiB, and a
            process may map it 65,530 times.
    """
    match = _MAPS_LINE.fullmatch(line)
    if match is None:
        return None
    start, end, perms, offset, dev, inode, path = match.groups()
    path = path.replace("\\012", "\n")
    deleted = inode != "0" and path.endswith(_DELETED)
    path = path.removesuffix(_DELETED) if deleted else path
    perms, dev, path = (known.setdefault(text, text) for text in (perms, dev, path))
    return MapEntry(int(start, 16), int(end, 16), perms, int(offset, 16), dev, int(inode), path, deleted)


def parse_status(text: str) -> dict[str, str]:
    """The fields of a /proc/PID/status by name, values without surrounding blanks."""
    pairs = (line.partition(":") for line in text.split("\n"))
    return {name: value.strip() for name, colon, value in pairs if colon}


def parse_stat(text: str) -> list[str]:
    """The fields of a /proc/PID/stat from the state on (field 3 in proc(5)).

    The name before them is free text: it may hold blanks and parentheses, so the last ``)`` ends it.

    Raises:
        ValueError: The text is no stat line.
    """
    fields = text[text.rindex(")") + 1 :].split()
    if len(fields) <= _STAT_START:
        raise ValueError(f"not a line of /proc/PID/stat: {text[:40]!r}")
    return fields


def read_maps(pid: int, *, executable_only: bool = False) -> list[MapEntry]:
    """The mappings of a process in address order; empty for a zombie or a kernel thread.

    Args:
        pid: The process.
        executable_only: Leave out what no code can run in, which of 65,000 mappings are nearly all.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: Its mappings may not be read with these rights.
    """
    known: dict[str, str] = {}
    try:
        with open(f"/proc/{pid}/maps", "rb", buffering=_MAPS_BUFFER_BYTES) as file:
            wanted = (line for line in file if not executable_only or line.split(b" ", 2)[1][2:3] == b"x")
            lines = (line[:-1].decode("utf-8", "surrogateescape") for line in wanted)
            return [entry for entry in (_parse_maps_line(line, known) for line in lines) if entry is not None]
    except OSError as error:
        _raise(error, pid, "maps")


def read_status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status by name.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return parse_status(_read_text(pid, "status"))


def read_comm(pid: int, tid: int | None = None) -> str:
    """Name of a process's main thread, or of one thread; bytes that are no UTF-8 are replaced.

    Raises:
        TargetGoneError: There is no such process or thread any more.
        CannotTraceError: It may not be read with these rights.
    """
    name = _read(pid, "comm" if tid is None else f"task/{tid}/comm")
    return name.removesuffix(b"\n").decode("utf-8", "replace")


def read_threads(pid: int) -> dict[int, str]:
    """Names of the live threads by tid.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: Its threads may not be listed with these rights.
    """
    try:
        tids = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError as error:
        _raise(error, pid, "task")
    return dict(_comms(pid, sorted(tids)))


def read_exe(pid: int) -> str:
    """Path of the executable as the target's root sees it; empty for a kernel thread or a zombie.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(_DELETED)
    except FileNotFoundError as error:
        if os.path.lexists(f"/proc/{pid}/status"):
            return ""
        _raise(error, pid, "exe")
    except OSError as error:
        _raise(error, pid, "exe")


def is_kernel_thread(pid: int) -> bool:
    """Whether it is a thread of the kernel, which has no address space of its own.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return bool(int(_read_stat(pid)[_STAT_FLAGS]) & _PF_KTHREAD)


def is_zombie(pid: int) -> bool:
    """Whether it has exited and waits for its parent to take notice.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return _read_stat(pid)[_STAT_STATE] in ("Z", "X", "x")


def read_elf_class(pid: int) -> int:
    """Width of the executable's addresses in bits, 32 or 64.

    Source: e_ident[EI_CLASS], elf(5).

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights, or it is no ELF file.
    """
    ident = _read(pid, "exe", 5)
    if len(ident) < 5 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2):
        raise CannotTraceError(f"reading the executable of PID {pid} failed: not an ELF file")
    return 32 * ident[4]


def read_start_ticks(pid: int) -> int:
    """When it started, in clock ticks after boot: with the PID, the identity of a process.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return int(_read_stat(pid)[_STAT_START])


def read_break_start(pid: int) -> int:
    """Where the program break began, and still is while there is no heap; 0 where the kernel does not say.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    fields = _read_stat(pid)
    return int(fields[_STAT_START_BRK]) if len(fields) > _STAT_START_BRK else 0


def read_rss(pid: int) -> int:
    """Resident memory in bytes, from the kernel's running count, which may be off by some hundred KiB.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return int(_read_text(pid, "statm").split()[1]) * PAGE_BYTES


def read_peak_rss(pid: int) -> int:
    """The most memory that was resident since its exec, in bytes; getrusage(2) counts what its parent had before too.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    return int(read_status(pid).get("VmHWM", "0").split()[0]) * 1024


def read_cpu_s(pid: int) -> float:
    """CPU time of all its threads, user and kernel, in seconds; to the nanosecond where its clock can be read.

    Raises:
        TargetGoneError: There is no such process any more.
        CannotTraceError: It may not be read with these rights.
    """
    with contextlib.suppress(OSError):
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    fields = _read_stat(pid)
    return (int(fields[_STAT_UTIME]) + int(fields[_STAT_STIME])) / _TICKS_PER_S


def read_waited_s(pid: int) -> float:
    """Seconds that its runnable threads have waited for a core; of the first 64 threads.

    0.0 where the kernel does not count it. Source: Documentation/scheduler/sched-stats.rst.

    Raises:
        TargetGoneError: There is no such process any more.
    """
    total_ns = 0
    try:
        for task in list(Path(f"/proc/{pid}/task").iterdir())[:_MAX_WAITING]:
            with contextlib.suppress(OSError):
                total_ns += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    except OSError as error:
        raise TargetGoneError(f"reading /proc/{pid}/task failed: process {pid} is gone") from error
    return total_ns / 1e9


def read_boot_id() -> str:
    """Identity of this boot of the kernel, as a UUID; empty where /proc/sys is hidden."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _comms(pid: int, tids: Iterable[int]) -> Iterable[tuple[int, str]]:
    for tid in tids:
        try:
            yield tid, read_comm(pid, tid)
        except TargetGoneError:
            continue  # the thread ended after it was listed


def _read_stat(pid: int) -> list[str]:
    return parse_stat(_read_text(pid, "stat"))


def _read_text(pid: int, name: str) -> str:
    return _read(pid, name).decode("utf-8", "surrogateescape")


def _read(pid: int, name: str, n_bytes: int = -1) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return (file.readall() if n_bytes < 0 else file.read(n_bytes)) or b""
    except OSError as error:
        _raise(error, pid, name)


def _raise(error: OSError, pid: int, name: str) -> NoReturn:
    path = f"/proc/{pid}/{name}"
    if error.errno in _GONE:
        raise TargetGoneError(f"reading {path} failed: process {pid} is gone") from error
    if error.errno in _DENIED:
        raise CannotTraceError(f"reading {path} failed: permission denied", PTRACE_REMEDY) from error
    raise CannotTraceError(f"reading {path} failed: {error.strerror}") from error
