"""The processes of this PID namespace with their memory: one line each.

Scope: psutil lists processes, tells a PID that was taken again from its predecessor, and knows names of users. Memory
comes from /proc/PID/status, which has swap and anonymous memory at 12 microseconds a process; smaps, which psutil would
read for them, walks page tables and holds the process's lock.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple

import psutil

from nativeleak.errors import NativeleakError
from nativeleak.process.procfs import read_status

_INTERPRETER: Final = re.compile(r"(?:java|python|pypy|node|ruby|perl|php|bash|dash|sh|zsh|dotnet|mono|beam)[\d.]*$")
_WITH_VALUE: Final = frozenset(("-cp", "-classpath", "--class-path", "-p", "--module-path", "-m", "--module", "-jar"))
_PROGRAM_OPTIONS: Final = frozenset(("-jar", "-m", "--module"))
_HOUR_S: Final = 3600.0


class Process(NamedTuple):
    """A process at one moment.

    Attributes:
        pid: In our PID namespace.
        started_s: When it started, seconds since the epoch; with the PID its identity.
        age_s: Seconds since then.
        name: The kernel's name, whole where the command line has it.
        program: The script, main class or archive that an interpreter runs; empty elsewhere.
        title: For people: the title it gave itself, or name and program.
        user: Name of its user, or the number.
        uid: Its real user.
        exe: Path of the executable; empty where it may not be read.
        rss: Bytes in memory.
        anonymous: Of these, without a file behind them.
        swap: Bytes swapped out.
    """

    pid: int
    started_s: float
    age_s: float
    name: str
    program: str
    title: str
    user: str
    uid: int
    exe: str
    rss: int
    anonymous: int
    swap: int

    @property
    def held(self) -> int:
        """Bytes in memory and swapped out."""
        return self.rss + self.swap

    @property
    def hourly(self) -> float:
        """Bytes an hour: its mean growth since it started."""
        return self.held / max(self.age_s, 1.0) * _HOUR_S


def read_processes() -> list[Process]:
    """All processes that have memory of their own but this one, the largest first."""
    now = time.time()
    found = (_process(each.info, now) for each in _listed() if each.pid != os.getpid())
    return sorted((process for process in found if process is not None), key=lambda process: -process.held)


def _listed() -> Iterator[psutil.Process]:
    yield from psutil.process_iter(["pid", "name", "username", "create_time", "cmdline", "exe"])


def _process(info: dict[str, object], now: float) -> Process | None:
    pid = int(str(info["pid"]))
    try:
        status = read_status(pid)
    except NativeleakError:
        return None
    if "VmRSS" not in status:
        return None  # a thread of the kernel, or a process that has ended
    words = (
        [word for word in info["cmdline"] or () if isinstance(word, str)] if isinstance(info["cmdline"], list) else []
    )
    name, exe = str(info["name"] or status.get("Name", "?")), str(info["exe"] or "")
    program = program_of(exe or name, words)
    uid = int(status.get("Uid", "-1").split()[0])
    started_s = float(str(info["create_time"] or now))
    return Process(
        pid=pid,
        started_s=started_s,
        age_s=max(0.0, now - started_s),
        name=name,
        program=program,
        title=_title(name, program, words),
        user=str(info["username"] or uid),
        uid=uid,
        exe=exe,
        rss=_kib(status, "VmRSS"),
        anonymous=_kib(status, "RssAnon"),
        swap=_kib(status, "VmSwap"),
    )


def program_of(exe: str, words: Sequence[str]) -> str:
    """The script, module, main class or archive of an interpreter's command line; empty elsewhere."""
    if not _INTERPRETER.search(exe.rsplit("/", 1)[-1]):
        return ""
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word in _PROGRAM_OPTIONS and rest:
            return rest[0].split("/")[0] if word in ("-m", "--module") else PurePosixPath(rest[0]).name
        if word in _WITH_VALUE and rest:
            rest.pop(0)
        elif word in ("-c", "-e"):
            return ""
        elif not word.startswith(("-", "@")):
            return PurePosixPath(word).name
    return ""


def _title(name: str, program: str, words: Sequence[str]) -> str:
    own = words[0].strip() if words else ""
    # A server that writes its title over its arguments: "postgres: checkpointer", "nginx: worker process".
    if ": " in own and own.partition(":")[0].rsplit("/", 1)[-1].startswith(name[:4]):
        return own
    return f"{name} {program}" if program and program != name else name


def _kib(status: dict[str, str], field: str) -> int:
    return int(status.get(field, "0").split()[0]) << 10
