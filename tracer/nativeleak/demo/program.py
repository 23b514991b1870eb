"""The program that ``nativeleak demo`` traces: named threads that leak known amounts. Imports nothing of ours.

Protocol, on stdin: ``go SECONDS`` lets the threads work for that time; ``truth`` ends their work and prints their
totals as one line of JSON; the end of stdin ends the program at once, also after its parent was killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

_PR_SET_NAME: Final = 15
_PROT_READ_WRITE: Final = 3
_MAP_PRIVATE_ANONYMOUS: Final = 0x22
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class Habit(NamedTuple):
    """Behaviour of one thread.

    Attributes:
        name: Name of the thread, at most 15 bytes.
        kind: ``heap`` or ``map``, as in reports.
        block_bytes: Size of each allocation.
        pause_s: Time between allocations.
        leaks: Whether it keeps what it allocates.
    """

    name: str
    kind: str
    block_bytes: int
    pause_s: float
    leaks: bool


HABITS: Final = (
    Habit("leaks-blocks", "heap", 64 << 10, 0.1, leaks=True),
    Habit("leaks-mappings", "map", 1 << 20, 0.25, leaks=True),
    Habit("tidy-worker", "heap", 16 << 10, 0.002, leaks=False),
)


class Libc:
    """The functions of the C library that the threads call."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.malloc, self.free, self.mmap, self.prctl = library.malloc, library.free, library.mmap, library.prctl
        self.malloc.restype, self.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
        self.free.restype, self.free.argtypes = None, (ctypes.c_void_p,)
        self.mmap.restype = ctypes.c_void_p
        self.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
        self.prctl.argtypes = (ctypes.c_int, ctypes.c_char_p, *(ctypes.c_ulong,) * 3)

    def allocate(self, n_bytes: int) -> int:
        """Allocate a block of the heap and touch all of it."""
        return self._touch(self.malloc(n_bytes), n_bytes)

    def map(self, n_bytes: int) -> int:
        """Map memory and touch all of it."""
        address = self.mmap(None, n_bytes, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        return self._touch(None if address == _MAP_FAILED else address, n_bytes)

    @staticmethod
    def _touch(address: int | None, n_bytes: int) -> int:
        if not address:
            raise MemoryError(n_bytes)
        ctypes.memset(address, 1, n_bytes)
        return address


class Worker(threading.Thread):
    """A thread with one habit; it waits for ``begin``."""

    def __init__(self, habit: Habit, libc: Libc, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.habit = habit
        self.n_done = 0
        self.work_s = 0.0
        self.begin = threading.Event()
        self.named = threading.Event()
        self._libc = libc
        self._stop_asked = stop
        self._get: Callable[[int], int] = libc.map if habit.kind == "map" else libc.allocate

    def run(self) -> None:
        """Set the name, wait, then work until the time is over."""
        self._libc.prctl(_PR_SET_NAME, self.habit.name.encode(), 0, 0, 0)
        self.named.set()
        self.begin.wait()
        end_s = time.monotonic() + self.work_s
        while not self._stop_asked.wait(self.habit.pause_s) and time.monotonic() < end_s:
            address = self._get(self.habit.block_bytes)
            self.n_done += 1
            if not self.habit.leaks:
                self._libc.free(address)

    def truth(self) -> dict[str, object]:
        """Allocations made and held."""
        n_held = self.n_done if self.habit.leaks else 0
        return {
            "thread": self.habit.name,
            "tid": self.native_id,
            "kind": self.habit.kind,
            "block_bytes": self.habit.block_bytes,
            "allocated_count": self.n_done,
            "outstanding_count": n_held,
            "outstanding_bytes": n_held * self.habit.block_bytes,
        }


def main() -> None:
    """Serve commands until stdin ends."""
    stop = threading.Event()
    libc = Libc()
    workers = [Worker(habit, libc, stop) for habit in HABITS]
    for worker in workers:
        worker.start()
        worker.named.wait()
    _answer({"pid": os.getpid()})
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "go":
            for worker in workers:
                worker.work_s = float(argument)
                worker.begin.set()
        elif command == "truth":
            ended_early = any(worker.is_alive() for worker in workers)
            stop.set()
            for worker in workers:
                worker.begin.set()
                worker.join()
            _answer({"complete": not ended_early, "threads": [worker.truth() for worker in workers]})
    os._exit(0)


def _answer(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
