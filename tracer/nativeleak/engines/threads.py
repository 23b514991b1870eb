"""The threads of all targets: tells apart two that had the same tid one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from nativeleak.model import ThreadInfo

OTHER_THREADS: Final = "(threads beyond the limit)"
OVERFLOW: Final = ThreadInfo(0, 0, 0, OTHER_THREADS)
"""Stands for threads that the kernel side has no room to number."""


class ThreadTable:
    """Threads by number.

    Numbers come from here (``uid``) or from the kernel (``take``); one trace uses one of both.
    """

    def __init__(self) -> None:
        self.is_frozen = False
        """Whether ``uid`` tells threads that are not known yet apart no longer."""
        self._threads: dict[int, ThreadInfo] = {}
        self._uid_of: dict[tuple[int, int], int] = {}
        self._changed: set[int] = set()
        self._ended: set[int] = set()

    def uid(self, slot: int, tid: int, name: str = "") -> int:
        """Number of a thread; one that is not known yet gets this name. TID 0 stands for all threads of a target."""
        uid = self._uid_of.get((slot, tid))
        if uid is None and self.is_frozen and tid:
            return self.uid(slot, 0, OTHER_THREADS)
        if uid is None:
            uid = len(self._threads) + 1
            self.take(ThreadInfo(uid, slot, tid, name or f"[thread {tid}]"))
        return uid

    def take(self, thread: ThreadInfo) -> None:
        """A thread, new or changed, under the number that it has."""
        if self._threads.get(thread.uid) == thread:
            return
        self._threads[thread.uid] = thread
        self._changed.add(thread.uid)
        if thread.alive:
            self._ended.discard(thread.uid)
            if thread.uid:
                self._uid_of[thread.slot, thread.tid] = thread.uid
        else:
            self._ended.add(thread.uid)

    def find(self, slot: int, tid: int) -> int:
        """Number of the thread that has this TID now, 0 where none is known."""
        return self._uid_of.get((slot, tid), 0)

    def get(self, uid: int) -> ThreadInfo | None:
        """The thread with a number."""
        return self._threads.get(uid)

    def name(self, uid: int) -> str:
        """Last known name of a thread, by its number."""
        return self._threads[uid].name if uid in self._threads else "?"

    def rename(self, slot: int, tid: int, name: str) -> None:
        """A thread is called otherwise from now on; an unknown one, and an empty name, are passed over."""
        uid = self.find(slot, tid)
        if uid and name and self._threads[uid].name != name:
            self.take(replace(self._threads[uid], name=name))

    def rename_all(self, slot: int, names: Mapping[int, str]) -> None:
        """Give threads of a target these names, by TID."""
        for tid, name in names.items():
            self.rename(slot, tid, name)

    def end(self, slot: int, tid: int, uid: int = 0, name: str = "") -> None:
        """A thread has ended.

        Args:
            slot: Its target.
            tid: Its TID.
            uid: Its number, where it may not be known here yet.
            name: Its last name; empty: the one that is known.
        """
        uid = self._uid_of.pop((slot, tid), 0) or uid
        if not uid:
            return
        known = self._threads.get(uid)
        name = name or (known.name if known is not None else f"[thread {tid}]")
        self.take(ThreadInfo(uid, slot, tid, name, alive=False))

    def tids(self, slot: int) -> list[int]:
        """Threads of a target that are alive as far as is known."""
        return [tid for each, tid in self._uid_of if each == slot and tid > 0]

    @property
    def ended(self) -> frozenset[int]:
        """Numbers of the threads that have ended."""
        return frozenset(self._ended)

    def take_changed(self) -> tuple[ThreadInfo, ...]:
        """Those that are new or have changed since the last call, in the order of their numbers."""
        changed = tuple(self._threads[uid] for uid in sorted(self._changed))
        self._changed.clear()
        return changed
