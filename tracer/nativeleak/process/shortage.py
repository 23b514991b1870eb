"""Tells a lack of our own descriptors or memory from other failures, and names the limit to raise.

Scope: limits of this process and of its memory groups. Such a failure says nothing about the kernel or the target:
another engine would lack the same.

Source: errno(3), getrlimit(2), dlopen(3) for messages without an errno; proc(5) for fs.file-max.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nativeleak.errors import MendableError, NativeleakError
from nativeleak.process.cgroups import MemoryGroup, read_memory_groups
from nativeleak.units import format_bytes

_NUMBERS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_ENDINGS: Final = {
    **{os.strerror(number): number for number in _NUMBERS},
    "failed to map segment from shared object": errno.ENOMEM,
}
"""How messages of the dynamic loader end; its errors carry no errno."""
_ENOUGH_FILES: Final = 4096
_OUTSIDE: Final = (
    "run nativeleak outside of the group (on the host, or in a container of its own), or raise the group's memory limit"
)
_MEMORY_LIMITS: Final = (
    (resource.RLIMIT_AS, "RLIMIT_AS", "`ulimit -v unlimited` (LimitAS=infinity of a service)"),
    (resource.RLIMIT_DATA, "RLIMIT_DATA", "--max-memory of the trace, or `ulimit -d unlimited` (LimitDATA=infinity)"),
)


def shortage_behind(error: BaseException) -> tuple[str, str] | None:
    """What this process lacks and how to raise it, if a lack of descriptors or memory is behind an error.

    Args:
        error: Any; the errors that led to it are looked at too.
    """
    number = next(filter(None, map(_number, _chain(error))), 0)
    return {errno.EMFILE: _own_files, errno.ENFILE: _all_files, errno.ENOMEM: _memory}[number]() if number else None


def refuse_shortage(error: BaseException, doing: str, *, has_begun: bool = False) -> None:
    """Raise the error that names the limit, if a lack of descriptors or memory is behind an error.

    Args:
        error: Any.
        doing: What failed, for the message.
        has_begun: Something is recorded: the failure is one of run time.

    Raises:
        MendableError: There is such a lack, and nothing has begun.
        NativeleakError: The same at run time.
    """
    shortage = shortage_behind(error)
    if shortage is not None:
        lack, remedy = shortage
        raise (NativeleakError if has_begun else MendableError)(f"{doing} failed: {lack}", remedy) from error


def describe_room(group: MemoryGroup) -> str:
    """How much memory a control group has left, for messages."""
    return f"control group {group.path} has {format_bytes(group.room_bytes)} left of {format_bytes(group.limit_bytes)}"


def no_room_error(group: MemoryGroup, least_bytes: int, what: str) -> MendableError:
    """Why a trace does not begin in a memory group that the target is in too.

    Args:
        group: The group.
        least_bytes: What is needed at least.
        what: What needs it, plural.
    """
    return MendableError(
        f"tracing failed: {describe_room(group)}, which the target shares; {what} take {format_bytes(least_bytes)}",
        _OUTSIDE,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, the last first."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _number(error: BaseException) -> int:
    """The errno of a lack; 0 for other errors."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError):  # the stack of a new thread has no room
        return errno.ENOMEM if str(error) == "can't start new thread" and own_memory_limit() else 0
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _NUMBERS else 0
    if isinstance(error, OSError | ImportError):
        return next((number for ending, number in _ENDINGS.items() if str(error).endswith(ending)), 0)
    return 0


def _own_files() -> tuple[str, str]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = max(_ENOUGH_FILES, 4 * limit)
    return (
        f"too many open files: this process may have {limit} (RLIMIT_NOFILE)",
        f"raise the hard limit: `ulimit -Hn {wanted}` before nativeleak, or LimitNOFILE={wanted} of its service",
    )


def _all_files() -> tuple[str, str]:
    return "the machine has too many open files (fs.file-max)", "raise the limit: `sysctl fs.file-max=NUMBER`"


def own_memory_limit() -> tuple[str, str] | None:
    """The limit of this process's memory, as a lack, and how to raise it; None where there is none."""
    for limit, name, remedy in _MEMORY_LIMITS:
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            return f"out of memory: this process may have {format_bytes(soft)} ({name})", f"raise the limit: {remedy}"
    return None


def _memory() -> tuple[str, str]:
    own = own_memory_limit()
    if own is not None:
        return own
    groups = read_memory_groups("self")
    if groups:
        group = min(groups, key=lambda each: each.room_bytes)
        return (
            f"out of memory: {describe_room(group)}",
            _OUTSIDE,
        )
    return f"out of memory: the machine has {_available()} left", "free memory, or give smaller limits: --max-memory"


def _available() -> str:
    """MemAvailable of the machine, for people."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        [kib] = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return "little memory"
    return format_bytes(kib << 10)
