"""Stacks as strace prints them (``-k``), as frames; where the target lives its own files give the better names.

strace finds names in the dynamic symbol table only, and gives the next one below whatever it is: a static function of
libc becomes ``__default_morecore+0xccc``. But it prints the place in the file too.

Source: strace 6.1, ``print_call_cb`` in src/unwind.c: ``FILE(FUNCTION+0xOFFSET) [0xPLACE]``, ``FILE() [0xPLACE]`` and
``ERROR [0xADDRESS]``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from nativeleak.digest import blake2b
from nativeleak.frames.roles import THREAD_ROOTS
from nativeleak.model import Frame, FrameKind, FrameSource, Stack
from nativeleak.process.procfs import MapEntry
from nativeleak.symbols.demangle import demangle, printable
from nativeleak.symbols.resolver import Symbolizer

_PLACE: Final = re.compile(r"[0-9a-f]{1,16}\]")
_OFFSET: Final = re.compile(r"[0-9a-f]{1,16}")
_MAX_TEXT: Final = 1 << 14
_U64: Final = struct.Struct("<Q")
_MAX_FUNCTION: Final = 4096
_EXPORTS_ONLY: Final = re.compile(r"(?:libc|ld|libpthread|libm)(?:-[\w.-]+)?\.so")
"""The C library, in which distributions leave exported names only."""
_FAR_BYTES: Final = 0x400
"""From here on an exported name is hardly the function's own."""


class PrintedFrame(NamedTuple):
    """One line of a stack.

    Attributes:
        path: The file's; empty where strace found none.
        function: Empty where strace found none.
        offset: From the function's start.
        place: Offset in the file, or the address where ``path`` is empty.
    """

    path: str
    function: str
    offset: int
    place: int


def parse_frame(text: str) -> PrintedFrame | None:
    """A line of a stack without its mark; None where it is none."""
    head, bracket, place = text[:_MAX_TEXT].rpartition(" [0x")
    if not bracket or not _PLACE.fullmatch(place):
        return None
    number = int(place[:-1], 16)
    path, parenthesis, inner = head.removesuffix(")").partition("(")
    if not parenthesis or not head.endswith(")"):
        return PrintedFrame("", "", 0, number)
    function, plus, offset = inner.rpartition("+0x")
    if not plus or not _OFFSET.fullmatch(offset):
        return PrintedFrame(path, "", 0, number)
    return PrintedFrame(path, function, int(offset, 16), number)


class StackNamer:
    """Makes stacks of printed ones, each distinct one once.

    Args:
        symbolizer: Of the living target; None for recorded output.
        read_maps: Gives the target's mappings now; empty for recorded output.
    """

    def __init__(
        self, symbolizer: Symbolizer | None = None, read_maps: Callable[[], Sequence[MapEntry]] = lambda: ()
    ) -> None:
        self.stacks: dict[int, Stack] = {}
        self.n_truncated = 0
        self.n_resolved = 0
        self.n_unresolved = 0
        self.is_frozen = False
        """Whether unknown stacks are no longer told apart."""
        self._symbolizer = symbolizer
        self._read_maps = read_maps
        self._maps: Sequence[MapEntry] = ()
        self._new: list[Stack] = []
        self._keys: dict[tuple[tuple[str, ...], str], int] = {}

    def key(self, printed: tuple[str, ...], mark: str = "") -> int:
        """Key of a stack, 0 where nothing is known of it.

        Args:
            printed: Its lines, leaf first.
            mark: What the call itself tells, shown as a frame below the leaf; empty for nothing.
        """
        if not printed and not mark:
            return 0
        known = self._keys.get((printed, mark))
        if known is not None:
            return known
        if self.is_frozen:
            return 0
        digest = blake2b("\n".join((mark, *printed)).encode("utf-8", "surrogateescape"), digest_size=8).digest()
        key = _U64.unpack(digest)[0] or 1
        self._keys[printed, mark] = key
        if key not in self.stacks:
            self.stacks[key] = self._stack(key, printed, mark)
            self._new.append(self.stacks[key])
        return key

    def frames(self, key: int) -> tuple[Frame, ...]:
        """Frames of a stack that was named, leaf first."""
        return self.stacks[key].frames if key in self.stacks else ()

    def take_new(self) -> list[Stack]:
        """Stacks seen for the first time since the last call."""
        new, self._new = self._new, []
        return new

    def close(self) -> None:
        """Close the target's files."""
        if self._symbolizer is not None:
            self._symbolizer.close()

    def _stack(self, key: int, printed: Sequence[str], mark: str) -> Stack:
        parsed = [frame for frame in map(parse_frame, printed) if frame is not None]
        frames = [self._frame(frame, is_leaf=i == 0) for i, frame in enumerate(parsed)]
        end = "root"
        if not frames:
            end = "strace printed no stack" if not mark else "root"
        elif frames[-1].function not in THREAD_ROOTS and not _is_root(parsed[-1]):
            end = "no unwind information"
        self.n_truncated += end != "root"
        if mark:
            frames.insert(0, Frame(mark, None, 0, 0, FrameKind.STUB, found=FrameSource.GAP))
        return Stack(key, tuple(frames), end != "root", end)

    def _frame(self, printed: PrintedFrame, *, is_leaf: bool) -> Frame:
        frame = self._resolved(printed, is_leaf=is_leaf)
        if frame is None:
            frame = _as_printed(printed)
        self.n_resolved += frame.kind is not FrameKind.UNRESOLVED
        self.n_unresolved += frame.kind is FrameKind.UNRESOLVED
        return frame

    def _resolved(self, printed: PrintedFrame, *, is_leaf: bool) -> Frame | None:
        """The frame by the target's own files; None where they tell nothing."""
        if self._symbolizer is None:
            return None
        ip = printed.place if not printed.path else self._address(printed)
        frame = self._symbolizer.resolve(ip, is_leaf=is_leaf) if ip else None
        return frame if frame is not None and (frame.kind is not FrameKind.UNRESOLVED or not printed.function) else None

    def _address(self, printed: PrintedFrame) -> int:
        """Where a place in a file is mapped executable, 0 for nowhere."""
        for is_fresh in (False, True):
            if is_fresh or not self._maps:
                self._maps = self._read_maps()
            for entry in self._maps:
                if (
                    entry.executable
                    and entry.path == printed.path
                    and entry.offset <= printed.place < entry.offset + entry.end - entry.start
                ):
                    return entry.start + printed.place - entry.offset
        return 0


def _as_printed(printed: PrintedFrame) -> Frame:
    if not printed.path:
        return Frame(f"0x{printed.place:x}", None, printed.place, 0, FrameKind.UNRESOLVED)
    module = printed.path.rsplit("/", 1)[-1]
    if not printed.function:
        name = f"[{module}+0x{printed.place:x}]"
        return Frame(name, module, 0, printed.place, FrameKind.UNRESOLVED, module_offset=printed.place)
    function = printable(demangle(printed.function[:_MAX_FUNCTION]))
    if printed.offset >= _FAR_BYTES and _EXPORTS_ONLY.match(module):
        name = f"{function}+0x{printed.offset:x}"
        return Frame(name, module, 0, printed.place, FrameKind.UNRESOLVED, module_offset=printed.place)
    return Frame(function, module, 0, printed.offset, module_offset=printed.place)


def _is_root(printed: PrintedFrame) -> bool:
    """Whether a thread begins here: with exported names only, libc's start shows as whatever lies below it."""
    return printed.function in ("_start", "__xmknodat") or printed.function in THREAD_ROOTS
