"""The JVM of a target: what the walker in the kernel is told of it, and names for the Java frames that it finds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.raw import RawFrame
from nativeleak.model import Frame, FrameKind, FrameSource
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.layout import WalkerConfig, read_walker_config
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.names import JavaNamer
from nativeleak.runtimes.hotspot.threads import ThreadNamer

_THREADS_EVERY_S: Final = 1.0
_KINDS: Final = frozenset(
    {
        abi.FrameSource.GAP,
        abi.FrameSource.COMPILED,
        abi.FrameSource.INTERPRETED,
        abi.FrameSource.ENTRY,
        abi.FrameSource.BARRIER,
        abi.FrameSource.NO_BLOB,
    }
)

_CODE: Final = frozenset({int(abi.FrameSource.COMPILED), int(abi.FrameSource.INTERPRETED)})
_MAX_LOOKED_AT: Final = 32_768


class JavaTarget:
    """One JVM that is traced.

    Args:
        vm: The JVM, opened; closed with this.
    """

    def __init__(self, vm: HotSpot) -> None:
        self._vm = vm
        self.config: WalkerConfig = read_walker_config(vm)
        self.namer = JavaNamer(vm)
        self._threads, self._no_threads = _thread_namer(vm)
        self._names_read_s = 0.0
        self._saw_barrier = False
        self._looked_at: set[tuple[int, int]] = set()
        self.names: dict[int, str] = {}

    @classmethod
    def open(cls, pid: int) -> Self:
        """Look at the JVM of a process.

        Raises:
            UnreadableError: It runs none that describes itself as HotSpot does.
        """
        return cls(HotSpot.open(pid))

    @property
    def notes(self) -> list[str]:
        """What cannot be shown of this JVM, and why; empty where all can."""
        return [*self.config.notes, *self.namer.missing, *([self._no_threads] if self._no_threads else [])]

    def close(self) -> None:
        """Let go of its memory."""
        self._vm.close()

    def struct(self) -> abi.Java:
        """The configuration as the kernel side takes it; all zero where Java frames cannot be walked."""
        config, java = self.config, abi.Java()
        if not config.can_walk_java:
            return java
        for name, _ in abi.Java._fields_:
            if name != "heaps":
                setattr(java, name, getattr(config, name))
        for entry, (low, high, segments) in zip(java.heaps, config.heaps, strict=False):
            entry.low, entry.high, entry.segments = low, high, segments
        return java

    def late_struct(self) -> abi.Java | None:
        """The configuration anew, where a frame has shown that what it lacked has come by now; else None."""
        if not self._saw_barrier or not self.config.awaits_virtual_threads:
            return None
        self._saw_barrier = False
        self._vm.refresh()
        config = read_walker_config(self._vm)
        if config.awaits_virtual_threads:
            return None
        self.config = config
        return self.struct()

    def frames(self, raw: RawFrame) -> list[Frame] | None:
        """What a raw frame is in Java: nothing for a mere mark, several for inlined methods; None for a native one."""
        if raw.found not in _KINDS:
            return None
        match raw.found:
            case abi.FrameSource.COMPILED:
                return self.namer.compiled(raw.ip, raw.extra >> 32, raw.extra & 0xFFFFFFFF)
            case abi.FrameSource.INTERPRETED:
                return [self.namer.interpreted(raw.ip, raw.extra)]
            case abi.FrameSource.GAP:
                return [_mark("[native frames missing: the walk went on at the last Java frame]")]
            case abi.FrameSource.BARRIER:
                self._saw_barrier = True
                return [_mark("[virtual thread: its other callers are in the heap; its carrier follows]")]
            case abi.FrameSource.NO_BLOB:
                return [_mark("[no code at this address of the code cache]")]
        return []

    def begin_naming(self) -> None:
        """Stacks are about to be named that were taken by now."""
        self.namer.begin()

    def look_at(self, words: Sequence[int]) -> None:
        """Name the Java code of a stack that waits for its own name: code is thrown away, stacks are kept."""
        new = set(zip(words[::2], words[1::2], strict=True)) - self._looked_at
        if len(self._looked_at) > _MAX_LOOKED_AT:
            self._looked_at.clear()
        self._looked_at |= new
        for word, extra in new:
            found = word >> abi.FOUND_SHIFT
            if found in _CODE:
                self.frames(RawFrame(word & abi.ADDRESS_MASK, abi.FrameSource(found), extra))

    def read_names(self) -> dict[int, str]:
        """Names of the Java threads alive by tid; read anew at most once a second."""
        now_s = time.monotonic()
        if now_s - self._names_read_s >= _THREADS_EVERY_S:
            self._names_read_s = now_s
            if self._threads is None:
                self._threads, _ = _thread_namer(self._vm)  # a JVM that starts may not know its own classes yet
            if self._threads is not None:
                with suppress(UnreadableError):
                    self.names |= self._threads.read()
        return self.names


def _thread_namer(vm: HotSpot) -> tuple[ThreadNamer | None, str]:
    """What reads the names of its threads, or why there is none."""
    try:
        return ThreadNamer(vm), ""
    except UnreadableError as error:
        return None, f"full names of threads, the kernel's 15 characters stand for them: {error}"


def _mark(text: str) -> Frame:
    return Frame(text, None, 0, 0, FrameKind.STUB, found=FrameSource.GAP)


def open_java(pid: int) -> tuple[JavaTarget | None, str]:
    """The JVM of a process, or why its Java frames cannot be shown."""
    try:
        java = JavaTarget.open(pid)
    except UnreadableError as error:
        return None, str(error)
    return java, "; ".join(java.notes)
