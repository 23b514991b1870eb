"""HotSpot behind the ``Runtime`` protocol: what the walker has to know of a JVM, and names for what it finds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Self

from nativeleak.errors import NativeleakError
from nativeleak.model import Frame, FrameKind, FrameSource, LimitKind
from nativeleak.runtimes.base import FOUND_GAP, FrameCounts, OwnedRange, RawFrame, raw_frame
from nativeleak.runtimes.hotspot.flags import read_limits
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.layout import WalkerConfig, read_walker_config
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.names import JavaNamer
from nativeleak.runtimes.hotspot.threads import ThreadNamer
from nativeleak.runtimes.hotspot.walker import JavaFrame, pack

_THREADS_EVERY_S: Final = 1.0
_KINDS: Final = frozenset({FOUND_GAP, *JavaFrame})
_CODE: Final = frozenset({JavaFrame.COMPILED, JavaFrame.INTERPRETED})
_MAX_LOOKED_AT: Final = 32_768
_WORD: Final = 8


class HotSpotRuntime:
    """One JVM; see ``Runtime``.

    Args:
        vm: The JVM, opened; closed with this.
    """

    def __init__(self, vm: HotSpot) -> None:
        self._vm = vm
        self._config: WalkerConfig = read_walker_config(vm)
        self._namer = JavaNamer(vm)
        self._threads, self._no_threads = _thread_namer(vm)
        self._names: Mapping[int, str] = {}
        self._names_read_s = 0.0
        self._saw_barrier = False
        self._looked_at: set[tuple[int, int]] = set()

    @classmethod
    def open(cls, pid: int) -> Self:
        """Look at the JVM of a process.

        Raises:
            UnreadableError: It runs none that describes itself as HotSpot does.
        """
        return cls(HotSpot.open(pid))

    @property
    def walker_config(self) -> bytes | None:
        """``struct nl_java``; None where Java frames cannot be walked."""
        return pack(self._config) if self._config.can_walk_java else None

    @property
    def notes(self) -> list[str]:
        """What cannot be shown of this JVM, and why; empty where all can."""
        return [*self._config.notes, *self._namer.missing, *([self._no_threads] if self._no_threads else [])]

    @property
    def counts(self) -> FrameCounts:
        """Java frames named so far, and those that were not."""
        return FrameCounts(self._namer.n_named, self._namer.n_stale, self._namer.n_unreadable)

    def close(self) -> None:
        """Let go of its memory."""
        self._vm.close()

    def late_config(self) -> bytes | None:
        """The configuration anew, where a frame has shown that what it lacked has come by now; else None."""
        if not self._saw_barrier or not self._config.awaits_virtual_threads:
            return None
        self._saw_barrier = False
        self._vm.refresh()
        config = read_walker_config(self._vm)
        if config.awaits_virtual_threads:
            return None
        self._config = config
        return self.walker_config

    def frames(self, raw: RawFrame) -> list[Frame] | None:
        """What a raw frame is in Java: nothing for a mere mark, several for inlined methods; None for a native one."""
        if raw.found not in _KINDS:
            return None
        match raw.found:
            case JavaFrame.COMPILED:
                return self._namer.compiled(raw.ip, raw.extra >> 32, raw.extra & 0xFFFFFFFF)
            case JavaFrame.INTERPRETED:
                return [self._namer.interpreted(raw.ip, raw.extra)]
            case _ if raw.found == FOUND_GAP:
                return [_mark("[native frames missing: the walk went on at the last Java frame]")]
            case JavaFrame.BARRIER:
                self._saw_barrier = True
                return [_mark("[virtual thread: its other callers are in the heap; its carrier follows]")]
            case JavaFrame.NO_BLOB:
                return [_mark("[no code at this address of the code cache]")]
        return []

    def begin_naming(self) -> None:
        """Stacks are about to be named that were taken by now."""
        self._namer.begin()

    def look_at(self, words: Sequence[int]) -> None:
        """Name the Java code of a stack that waits for its own name: code is thrown away, stacks are kept."""
        new = set(zip(words[::2], words[1::2], strict=True)) - self._looked_at
        if len(self._looked_at) > _MAX_LOOKED_AT:
            self._looked_at.clear()
        self._looked_at |= new
        for raw in (raw_frame(*each) for each in new):
            if raw.found in _CODE:
                self.frames(raw)

    def thread_names(self) -> Mapping[int, str]:
        """Names of the Java threads alive by tid; read anew at most once a second."""
        now_s = time.monotonic()
        if now_s - self._names_read_s >= _THREADS_EVERY_S:
            self._names_read_s = now_s
            if self._threads is None:
                self._threads, _ = _thread_namer(self._vm)  # a JVM that starts may not know its own classes yet
            if self._threads is not None:
                with suppress(UnreadableError):
                    self._names = self._threads.read()
        return self._names

    def memory(self) -> list[OwnedRange]:
        """What the JVM says of its Java heap and its code: reserved once and for all at its start."""
        owned: list[OwnedRange] = []
        vm = self._vm
        with suppress(NativeleakError, OSError):
            heap, reserved = vm.pointer("Universe::_collectedHeap"), vm.structs.field("CollectedHeap::_reserved")
            if heap is not None and reserved is not None:
                start = vm.memory.u64(heap + reserved)
                n_bytes = _WORD * vm.memory.u64(heap + reserved + _WORD)
                owned.append(OwnedRange(start, start + n_bytes, "Java heap"))
        return [*owned, *(OwnedRange(low, high, "JVM: compiled code") for low, high, _ in self._config.heaps)]

    def limits(self) -> list[tuple[LimitKind, str, int]]:
        """The most that the Java heap and direct buffers may take."""
        return read_limits(self._vm)


def _thread_namer(vm: HotSpot) -> tuple[ThreadNamer | None, str]:
    """What reads the names of its threads, or why there is none."""
    try:
        return ThreadNamer(vm), ""
    except UnreadableError as error:
        return None, f"full names of threads, the kernel's 15 characters stand for them: {error}"


def _mark(text: str) -> Frame:
    return Frame(text, None, 0, 0, FrameKind.STUB, found=FrameSource.GAP)
