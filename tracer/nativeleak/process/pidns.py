"""PID namespaces: which is ours, and who has a given PID in another one.

Scope: /proc only. A PID means something in its namespace alone; here and in the kernel side it is always the one that
the tracer's own namespace has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nativeleak.errors import CannotTraceError, NativeleakError, NoTargetError, UsageError
from nativeleak.process import procfs

_INIT_INODE: Final = 0xEFFFFFFC
"""Of the machine's own PID namespace. Source: PROC_PID_INIT_INO in include/linux/proc_ns.h."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A process that has a PID in a namespace below ours.

    Attributes:
        pid: As our namespace has it.
        comm: Name of its main thread.
        namespace: Inode of its PID namespace.
    """

    pid: int
    comm: str
    namespace: int


def read_inner_pid_namespace() -> tuple[int, int] | None:
    """(device, inode) of the PID namespace of this process; None where it is the machine's own."""
    try:
        found = Path("/proc/self/ns/pid").stat()
    except OSError:
        return None  # a kernel without such namespaces has only one
    return None if found.st_ino == _INIT_INODE else (found.st_dev, found.st_ino)


def find_ns_pid(ns_pid: int, of: int | None = None) -> int:
    """The PID, as ours, of the process that calls itself ``ns_pid`` in a namespace below ours.

    Args:
        ns_pid: Its PID in its own, innermost namespace.
        of: A process of that namespace, by our PID; None where ``ns_pid`` is enough to tell.

    Raises:
        NoTargetError: There is none.
        UsageError: There are several; the text names them.
        CannotTraceError: Namespaces may not be read.
    """
    what = f"--ns-pid {ns_pid}"
    wanted = None
    if of is not None:
        wanted = _namespace_of(of, what)
        what += f" --ns-of {of}"
    found = [inside for inside in _inside(ns_pid) if wanted is None or inside.namespace == wanted]
    if not found:
        where = "in a PID namespace other than ours" if of is None else f"in the PID namespace of process {of}"
        raise NoTargetError(f"{what}: there is no process {ns_pid} {where}", "ps -e -o pid,pidns,comm lists them.")
    if len(found) > 1:
        them = ", ".join(f"{inside.pid} ({inside.comm})" for inside in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise UsageError(
            f"{what}: {len(found)} processes are PID {ns_pid} in namespaces of their own: {them}{more}",
            "give -p with one of these, or --ns-of with any process of the right container",
        )
    return found[0].pid


def _namespace_of(pid: int, what: str) -> int:
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except FileNotFoundError as error:
        raise NoTargetError(f"{what} --ns-of {pid}: no such process") from error
    except OSError as error:
        raise CannotTraceError(
            f"{what} --ns-of {pid}: its namespaces cannot be read: {error.strerror}", procfs.PTRACE_REMEDY
        ) from error


def _inside(ns_pid: int) -> Iterator[Inside]:
    """Processes with this PID in a namespace other than ours."""
    ours = _namespace_of(os.getpid(), "--ns-pid")
    for name in sorted((entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()), key=int):
        with contextlib.suppress(OSError, NativeleakError, ValueError):
            status = procfs.read_status(int(name))
            if int(status.get("NSpid", "0").split()[-1]) != ns_pid:
                continue
            namespace = Path(f"/proc/{name}/ns/pid").stat().st_ino
            if namespace != ours:
                yield Inside(int(name), procfs.read_comm(int(name)), namespace)
