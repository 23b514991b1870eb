"""Which process is meant: by name, user, control group, container.

Scope: what is given must hold all together. Nothing here chooses among several: they are listed, the most promising
first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from nativeleak.errors import NoTargetError, UsageError
from nativeleak.processes.reading import Process, read_processes
from nativeleak.units import format_bytes, format_duration, format_rate

_MOUNT: Final = re.compile(r"^/sys/fs/cgroup(?:/(?:memory|unified|systemd))?(?=/|$)")
_CONTAINER: Final = re.compile(r"[0-9a-f]{4,64}")
_MAX_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class Choice:
    """What a process is known by; empty parts are not asked for.

    Attributes:
        name: Of the process, its executable or the program of an interpreter; ``*`` and ``?`` stand for any letters.
        user: Name or number.
        cgroup: Path of a control group, or its last parts; processes of groups below it count.
        container: The beginning of a container's ID.
    """

    name: str = ""
    user: str = ""
    cgroup: str = ""
    container: str = ""

    def __bool__(self) -> bool:
        return bool(self.name or self.user or self.cgroup or self.container)

    @property
    def words(self) -> str:
        """As it was written."""
        parts = (
            ("--name", self.name),
            ("--user", self.user),
            ("--cgroup", self.cgroup),
            ("--container", self.container),
        )
        return " ".join(f"{option} {value}" for option, value in parts if value)

    def matches(self, process: Process) -> bool:
        """Whether it may be this process."""
        if self.name and not any(fnmatchcase(name, self.name) for name in _names(process)):
            return False
        if self.user and self.user not in (process.user, str(process.uid)):
            return False
        if self.cgroup and not is_in_group(_read(process.pid, "cgroup"), self.cgroup):
            return False
        return not self.container or is_in_container(process.pid, self.container)


def find_matching(choice: Choice) -> list[Process]:
    """The processes that match, the largest first.

    Raises:
        UsageError: An ID of a container is none.
        NoTargetError: No process matches.
    """
    if choice.container and not _CONTAINER.fullmatch(choice.container):
        raise UsageError(
            f"--container {choice.container}: not an ID of a container",
            "Give at least four of its digits: docker ps, podman ps and crictl ps list IDs.",
        )
    found = [process for process in read_processes() if choice.matches(process)]
    if not found:
        raise NoTargetError(f"{choice.words}: no process matches", "nativeleak top lists the processes by memory.")
    return found


def listed(processes: Sequence[Process]) -> Iterator[str]:
    """A table of processes to choose from, at most 20."""
    yield f"{'PID':>9} {'user':<12}{'in memory':>11}{'swap':>11}{'growth since start':>20}{'age':>9}  name"
    for process in processes[:_MAX_LISTED]:
        yield (
            f"{process.pid:>9} {process.user[:11]:<12}{format_bytes(process.rss):>11}{format_bytes(process.swap):>11}"
            f"{format_rate(process.hourly / 3600):>20}{format_duration(process.age_s):>9}  {process.title[:60]}"
        )
    if len(processes) > _MAX_LISTED:
        yield f"{'':>9} {len(processes) - _MAX_LISTED} smaller ones"


def is_in_group(cgroup: str, wanted: str) -> bool:
    """Whether the text of a /proc/PID/cgroup names a group or one below it.

    Args:
        cgroup: The text.
        wanted: ``/system.slice/app.service``, the same below /sys/fs/cgroup, or its last parts: ``app.service``.
    """
    parts = PurePosixPath(_MOUNT.sub("", wanted)).parts
    parts = tuple(part for part in parts if part != "/")
    is_absolute = wanted.startswith("/")
    for line in cgroup.splitlines():
        has = [part for part in line.split(":", 2)[-1].split("/") if part]
        starts = (0,) if is_absolute else range(len(has) - len(parts) + 1)
        if any(tuple(has[start : start + len(parts)]) == parts for start in starts):
            return bool(parts)
    return False


def is_in_container(pid: int, wanted: str) -> bool:
    """Whether a process is in a container whose ID begins so.

    The ID stands in the paths of its control groups; where the container sees its own group as the root, it stands in
    the sources of its mounts (``/var/lib/docker/containers/ID/hostname``).
    """
    ids = re.compile(rf"(?<![0-9a-f]){re.escape(wanted)}[0-9a-f]{{{max(0, 12 - len(wanted))},}}(?![0-9a-f])")
    return any(ids.search(_read(pid, file)) is not None for file in ("cgroup", "mountinfo"))


def _names(process: Process) -> Iterator[str]:
    yield process.name
    yield process.title
    if process.exe:
        yield PurePosixPath(process.exe).name
    if process.program:
        yield process.program
        before, _, after = process.program.rpartition(".")
        # A class by its last part, com.acme.Gateway; a file without its ending, gateway.jar.
        yield after if _is_class(process.program) else before


def _is_class(program: str) -> bool:
    """Whether it is the name of a Java class, whose last part is what people call it by."""
    return re.fullmatch(r"(?:[\w$]+\.)+[A-Z][\w$]*", program) is not None


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
