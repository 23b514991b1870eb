"""Frames and stacks. A stack is leaf first, always: frame 0 is the allocator function, the last frame the root."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FrameKind(StrEnum):
    """Origin of a frame's code; the values are those of the JSON report."""

    NATIVE = "native"
    JAVA_COMPILED = "java-compiled"
    JAVA_INTERPRETED = "java-interpreted"
    JAVA_INLINED = "java-inlined"
    STUB = "stub"
    KERNEL = "kernel"
    UNRESOLVED = "unresolved"


class FrameSource(StrEnum):
    """How the stack walk found a frame."""

    EXACT = "exact"
    """By unwind information, or the leaf itself."""
    GUESS = "guess"
    """By a frame pointer, because the callee has no unwind information: a caller may be missing or wrong."""
    SIGNAL = "signal"
    """A signal interrupted it at a place that its call-site table does not cover: frames above may be wrong."""
    FP = "fp"
    """By a frame pointer, because the user asked for it."""
    TAIL = "tail-call"
    """By the call before the return address of the frame above: the function ended in a jump, so none is its own."""
    GAP = "gap"
    """Frames are missing between it and the one before."""
    SITE = "call-site"
    """The leaf of a block that was recorded at its call site, which is watched by itself."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One function at one place.

    Attributes:
        function: Demangled name; for an unresolved frame the printed form ``0x7f12 [libfoo.so+0x1a2b]``.
        module: File name (no folder) of the mapped object, or None for anonymous memory.
        ip: Address in the target, 0 if unknown. For a caller it is the return address.
        offset: Bytes from the start of the function; for an unresolved frame, from the start of the module's address
            space.
        kind: Origin of the code.
        file: Source file, if known.
        line: Source line, counted from 1, if known.
        build_id: Hex build id of the module, for source lines at report time; empty if it has none.
        module_offset: The address as the module's own ELF addresses count it, for source lines at report time; of a
            caller it is the return address, so lines are looked up one byte before.
        found: How the walk found it.
        is_inlined: Native code that the compiler put into the frame after it, as debug information tells a report; a
            recording has none. Inlined Java methods have a kind of their own.
    """

    function: str
    module: str | None
    ip: int
    offset: int
    kind: FrameKind = FrameKind.NATIVE
    file: str | None = None
    line: int | None = None
    build_id: str = ""
    module_offset: int = 0
    found: FrameSource = FrameSource.EXACT
    is_inlined: bool = False

    def __hash__(self) -> int:
        """Hash of the fields that differ most: a recording looks up each frame of each new stack by it."""
        return hash((self.function, self.ip, self.offset, self.line))


@dataclass(frozen=True, slots=True)
class Stack:
    """One distinct call stack.

    Attributes:
        key: 64-bit id made by the kernel side from the addresses; stable within a recording.
        frames: Leaf first.
        truncated: It does not reach the root, or frames in its middle were left out.
        end: How the walk ended: ``"root"``, or why it stopped before (``"no frame pointer"``, ``"no table"``, ...).
    """

    key: int
    frames: tuple[Frame, ...]
    truncated: bool = False
    end: str = "root"
