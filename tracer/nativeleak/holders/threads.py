"""The threads of a process: names, stack pointers, and the words that only a register or the kernel holds.

Scope: reading, without stopping a thread. Registers come from an iterator in the kernel where these rights allow it;
elsewhere only the arguments of the system calls of sleeping threads are known.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nativeleak.closing import Closing
from nativeleak.engines.bpf.kernel.registers import RegisterReader
from nativeleak.holders.places import Thread
from nativeleak.process.procfs import read_threads

_RUNNING: Final = "running"
_EPOLL: Final = re.compile(r"tfd:\s*\d+ events:\s*[0-9a-f]+ data:\s*([0-9a-f]+)")
_TIMER: Final = re.compile(r"^signal: \d+/([0-9a-f]+)$", re.MULTILINE)
_MAX_DESCRIPTORS: Final = 1 << 16


class KernelWord(NamedTuple):
    """A word that the kernel keeps for the process.

    Attributes:
        value: The word.
        holder: What it belongs to, for people.
    """

    value: int
    holder: str


class ThreadReader(Closing):
    """Reads threads, as often as wanted; a context manager.

    Args:
        pid: The process.

    Attributes:
        why_no_registers: Why registers cannot be read; empty where they can.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._registers: RegisterReader | None = None
        self.why_no_registers = ""
        try:
            self._registers = RegisterReader(pid)
        except (OSError, ValueError) as error:
            self.why_no_registers = str(error)

    def close(self) -> None:
        """Take the program out of the kernel."""
        if self._registers is not None:
            self._registers.close()
            self._registers = None

    def read(self) -> list[Thread]:
        """All threads.

        Raises:
            TargetGoneError: There is no such process any more.
            CannotTraceError: Its threads may not be listed with these rights.
        """
        names = read_threads(self._pid)
        registers: dict[int, tuple[int, ...]] = {}
        if self._registers is not None:
            try:
                registers = self._registers.read()
            except OSError as error:
                self.why_no_registers = str(error)
        if self._registers is not None and not registers and names:
            self.why_no_registers = "another PID namespace"
        return [self._thread(tid, name, registers.get(tid)) for tid, name in names.items()]

    def _thread(self, tid: int, name: str, registers: tuple[int, ...] | None) -> Thread:
        sleeps, pointer = False, None
        arguments: tuple[int, ...] = ()
        with contextlib.suppress(OSError, ValueError):
            words = Path(f"/proc/{self._pid}/task/{tid}/syscall").read_text(encoding="ascii").split()
            if len(words) >= 3 and words[0] != _RUNNING:
                sleeps, pointer = True, int(words[-2], 16)
                arguments = tuple(int(word, 16) for word in words[1:-2])
        if registers is not None:
            return Thread(tid, name, pointer or registers[-1] or None, sleeps, (*registers, *arguments))
        return Thread(tid, name, pointer, sleeps, arguments)


def read_kernel_words(pid: int) -> list[KernelWord]:
    """Pointers that the program gave to the kernel: of epoll events and of timers."""
    found = [KernelWord(int(data, 16), f"events of epoll's descriptor {fd}") for fd, data in _epoll_events(pid)]
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/timers").read_text(encoding="ascii")
        found += [KernelWord(int(word, 16), "timer") for word in _TIMER.findall(text)]
    return found


def _epoll_events(pid: int) -> Iterator[tuple[int, str]]:
    """(epoll's descriptor, data) of each event."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=len)[:_MAX_DESCRIPTORS]:  # noqa: PTH208 - names alone
            with contextlib.suppress(OSError):
                if "eventpoll" not in os.readlink(f"/proc/{pid}/fd/{name}"):  # noqa: PTH115
                    continue
                text = Path(f"/proc/{pid}/fdinfo/{name}").read_text(encoding="ascii")
                yield from ((int(name), data) for data in _EPOLL.findall(text))
