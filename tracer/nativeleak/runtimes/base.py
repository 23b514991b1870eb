"""What a runtime of managed code is to the rest: a row that describes it, and what it answers of one process.

A runtime is a folder beside ``hotspot/`` with a ``RuntimeSpec``, its row in ``registry.RUNTIMES``, and, where the
kernel's walker must step over its frames, a header beside ``bpf/hotspot.bpf.h`` with a case in ``bpf/runtime.bpf.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, FrameKind, Limit, LimitKind
from nativeleak.process.procfs import MapEntry

FOUND_GAP: Final = 4
"""How frames were found: none is here, some are missing. Source: ``NL_FOUND_GAP`` of ``bpf/nativeleak.h``."""
UNKNOWN_VERSION: Final = "unknown"
"""Of a runtime that does not say its version."""
_FOUND_SHIFT: Final = 56
_ADDRESS_MASK: Final = (1 << _FOUND_SHIFT) - 1


class RawFrame(NamedTuple):
    """One frame as the kernel found it.

    Attributes:
        ip: Its address, or what stands for it.
        found: How it was found, ``enum nl_found`` of ``bpf/nativeleak.h``: below 16 natively, from there on by the
            walker of a runtime.
        extra: The second word; what it means depends on ``found``.
    """

    ip: int
    found: int
    extra: int


def raw_frame(word: int, extra: int) -> RawFrame:
    """A frame from its two words, ``struct nl_frame`` of ``bpf/nativeleak.h``."""
    return RawFrame(word & _ADDRESS_MASK, word >> _FOUND_SHIFT, extra)


class OwnedRange(NamedTuple):
    """Memory that a runtime says is its own: its name for people, such as ``Java heap``."""

    start: int
    end: int
    name: str


class FrameCounts(NamedTuple):
    """Frames that a runtime was asked to name.

    Attributes:
        named: Frames that have a name.
        stale: Frames whose code was gone when they were to be named.
        unreadable: Frames that could not be read.
    """

    named: int = 0
    stale: int = 0
    unreadable: int = 0


class Runtime(Protocol):
    """The runtime of one living process."""

    @property
    def walker_config(self) -> bytes | None:
        """What the kernel's walker has to know, as its map takes it; None where it cannot walk the frames."""

    @property
    def notes(self) -> Sequence[str]:
        """What cannot be shown, and why; empty where all can."""

    @property
    def counts(self) -> FrameCounts:
        """Frames named so far, and those that were not."""

    def frames(self, raw: RawFrame) -> list[Frame] | None:
        """Names of a raw frame: none for a mere mark, several where calls were inlined; None: it is not its code."""

    def begin_naming(self) -> None:
        """Stacks are about to be named that were taken before this call."""

    def look_at(self, words: Sequence[int]) -> None:
        """Read what is needed to name a stack later: code is thrown away, stacks are kept.

        Args:
            words: Two of each frame, see ``raw_frame``.
        """

    def late_config(self) -> bytes | None:
        """``walker_config`` anew where it could only now be completed; else None."""

    def thread_names(self) -> Mapping[int, str]:
        """Full names of its threads by tid, as our PID namespace counts.

        Read anew at most once a second; until then it is the same object.
        """

    def memory(self) -> Sequence[OwnedRange]:
        """Address space that it says is its own, reserved once and for all."""

    def limits(self) -> Sequence[tuple[LimitKind, str, int]]:
        """Limits of memory that it sets itself: kind, name of the option, bytes."""

    def close(self) -> None:
        """Close its files; may be called again."""


def limits_of(slot: int, runtime: Runtime | None) -> list[Limit]:
    """The limits of a target's runtime; none where it has no runtime."""
    return [] if runtime is None else [Limit(slot, *limit) for limit in runtime.limits()]


@dataclass(frozen=True, slots=True)
class RuntimeWords:
    """How messages speak of a runtime.

    Attributes:
        title: ``JVM``.
        language: ``Java``: in front of *frames*, *stacks* and *threads*.
        whole: Which kinds of frames are shown where all can be.
        remedy: What to do where frames cannot be shown; ``{pid}`` is the PID as the process sees it itself.
    """

    title: str
    language: str
    whole: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeMemory:
    """How a runtime's memory shows among the mappings of a process.

    Attributes:
        structures: What anonymous memory beside reserved address space is; empty where that tells nothing.
        files: Beginning of a path -> what is mapped there.
    """

    structures: str = ""
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """One kind of runtime; a row of ``registry.RUNTIMES``.

    Attributes:
        name: Stands in recordings.
        is_library: Whether a mapped file of this path shows that the process has the runtime.
        read_version: PID and mappings -> version.
        open: Looks at the runtime of a process; raises NativeleakError where it cannot be read.
        words: For messages.
        frames: What names on stacks tell.
        memory: What mappings tell.
        jit_kind: Kind of the frames that ``/tmp/perf-PID.map`` names.
        config_map: The BPF map that takes ``Runtime.walker_config`` by slot; empty where the kernel walks no frames.
        config_bytes: Size of its values.
    """

    name: str
    is_library: Callable[[str], bool]
    read_version: Callable[[int, Sequence[MapEntry]], str]
    open: Callable[[int], Runtime]
    words: RuntimeWords
    frames: RuntimeFrames
    memory: RuntimeMemory = RuntimeMemory()
    jit_kind: FrameKind = FrameKind.NATIVE
    config_map: str = ""
    config_bytes: int = 0

    def find_library(self, maps: Iterable[MapEntry]) -> MapEntry | None:
        """The first mapping that shows the runtime, None where there is none."""
        return next((entry for entry in maps if entry.inode and self.is_library(entry.path)), None)
