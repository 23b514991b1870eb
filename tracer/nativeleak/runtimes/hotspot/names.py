"""Names for the Java frames that the walker found.

Scope: raw frames to frames for people, inlined methods expanded, while the code exists. A name is only given when the
code is still the code that ran: what was replaced meanwhile is said to be stale. Memory of a JVM is moved, reused and
damaged while it is read; whatever it holds, an answer is given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.model.stack import Frame, FrameKind
from nativeleak.process.procfs import read_maps
from nativeleak.runtimes.hotspot.codecache import CodeCache, read_code_cache
from nativeleak.runtimes.hotspot.identity import NOWHERE, PLACE_BITS, UNKNOWN
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.methods import MethodFacts, MethodReader
from nativeleak.runtimes.hotspot.nmethods import NATIVE_WRAPPER, NMETHOD, NmethodReader, Scope
from nativeleak.symbols.demangle import printable

STALE: Final = "[stale Java code]"
UNREADABLE: Final = "[unreadable Java frame]"

_MAX_CACHED: Final = 65_536
_NMETHOD_BYTES: Final = 512
"""At least what an nmethod's own fields take, without its code."""
_MEMORY_AGE_S: Final = 0.02
"""How long what was read of the target is believed: stacks come in batches that share most of their frames."""


class JavaNamer:
    """Names Java frames of one JVM; not safe for use by several threads at once.

    Args:
        vm: The JVM; must stay open as long as names are asked for.

    Attributes:
        n_named: Frames that were named.
        n_stale: Frames whose code was gone or another when it was to be named.
        n_unreadable: Frames that could not be read.
        missing: Why nothing of a kind can be named, for people; empty where all can.
    """

    def __init__(self, vm: HotSpot) -> None:
        self.n_named = self.n_stale = self.n_unreadable = 0
        self.missing: list[str] = []
        self._vm = vm
        self._cache: dict[tuple[int, int, int], list[Frame]] = {}
        self._interpreted: dict[tuple[int, int], Frame] = {}
        self._files: list[tuple[int, int]] | None = None
        self._read_s = time.monotonic()
        self._methods: MethodReader | None = None
        self._nmethods: NmethodReader | None = None
        self._code_cache: CodeCache | None = None
        try:
            self._methods = MethodReader(vm)
            self._code_cache = read_code_cache(vm)
            self._nmethods = NmethodReader(vm, self._code_cache)
        except UnreadableError as error:
            self.missing.append(str(error))

    def compiled(self, blob: int, compile_id: int, offset: int) -> list[Frame]:
        """The frames at a return address in compiled code or a stub, innermost first; at least one.

        Args:
            blob: Address of the CodeBlob that holds it.
            compile_id: Of the nmethod when the frame was found; for a stub, what its code had in that place.
            offset: Of the return address from the blob's start.

        Returns:
            Frames whose ``offset`` is the bytecode index, the outermost last. Where nothing is recorded of the place
            the method that was compiled stands alone.
        """
        key = (blob, compile_id, offset)
        frames = self._cache.get(key)
        if frames is None:
            self._refresh()
            try:
                frames = self._name_compiled(blob, compile_id, offset)
            except UnreadableError:
                self.n_unreadable += 1
                return [_mark(UNREADABLE, blob + offset)]
            if frames is None:
                self.n_stale += 1
                return [_mark(STALE, blob + offset)]
            if len(self._cache) >= _MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = frames
        self.n_named += len(frames)
        return list(frames)

    def interpreted(self, method: int, place: int) -> Frame:
        """The frame of an interpreted method.

        Args:
            method: Address of its Method when the frame was found.
            place: Where in it the frame was, and whose it was then, ``packed`` by the kernel side (``identity``).

        Returns:
            A frame whose ``offset`` is the bytecode index. It is stale where another method is there by now, or the
            bytecode is not the method's.
        """
        frame = self._interpreted.get((method, place))
        if frame is None:
            frame = self._name_interpreted(method, place)
            if frame.kind is FrameKind.JAVA_INTERPRETED and place >> PLACE_BITS != UNKNOWN:
                # With the same cookie it is the same method, whatever has been in between.
                if len(self._interpreted) >= _MAX_CACHED:
                    del self._interpreted[next(iter(self._interpreted))]
                self._interpreted[method, place] = frame
        self.n_named += frame.kind is FrameKind.JAVA_INTERPRETED
        return frame

    def _name_interpreted(self, method: int, place: int) -> Frame:
        self._refresh()
        offset, cookie = place & NOWHERE, place >> PLACE_BITS
        try:
            facts = self._method(method)
            if cookie == UNKNOWN and not self._is_in_file(method):
                raise UnreadableError("nothing tells whether the method is still the same")
        except UnreadableError:
            self.n_unreadable += 1
            return _mark(UNREADABLE, method)
        bcp = facts.const_method + offset
        bci = bcp - facts.code
        is_inside = offset != NOWHERE and 0 <= bci < facts.code_bytes
        if cookie not in (UNKNOWN, facts.cookie) or not (is_inside or facts.is_native):
            self.n_stale += 1
            return _mark(STALE, bcp)
        bci = bci if is_inside else 0
        return Frame(facts.name, None, bcp, bci, FrameKind.JAVA_INTERPRETED, facts.file, facts.line(bci))

    def begin(self) -> None:
        """Believe nothing that was read before: it may be older than the stacks that are named next."""
        self._read_s = -_MEMORY_AGE_S

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._read_s > _MEMORY_AGE_S:
            self._read_s = now
            self._vm.refresh()
            if self._methods is not None:
                self._methods.forget()

    def _is_in_file(self, address: int) -> bool:
        """Whether an address is in a mapped file: an archive of classes, whose pages come to memory when touched."""
        if self._files is None:
            try:
                entries = read_maps(self._vm.pid)
            except (NativeleakError, ValueError):
                entries = []
            self._files = [(entry.start, entry.end) for entry in entries if entry.inode]
        return any(start <= address < end for start, end in self._files)

    def _method(self, address: int) -> MethodFacts:
        if self._methods is None:
            raise UnreadableError("the JVM does not describe its methods")
        return self._methods.read(address)

    def _name_compiled(self, blob: int, compile_id: int, offset: int) -> list[Frame] | None:
        """The frames, or None where the code is not what it was."""
        nmethods, code_cache = self._nmethods, self._code_cache
        if nmethods is None or code_cache is None:
            raise UnreadableError("the JVM does not describe its code")
        if not any(heap.low <= blob < heap.high for heap in code_cache.heaps):
            raise UnreadableError(f"no compiled code can be at {blob:#x}")
        is_inside = code_cache.find_blob(self._vm.memory, blob + offset) == blob
        if not is_inside or not code_cache.is_used(self._vm.memory, blob):
            return None
        # A stub has code in that place. It stays the same as long as the stub is there, and a stub that took the place
        # of a compiled method has another word there.
        if nmethods.compile_id(blob) != compile_id:
            return None
        kind = nmethods.kind(blob)
        if kind not in (NMETHOD, NATIVE_WRAPPER):
            return [Frame(f"<{printable(kind)}>", None, blob + offset, offset, FrameKind.STUB)]
        size = nmethods.size(blob)
        if size is not None and not 0 <= offset <= size:
            return None
        if not nmethods.method(blob):
            return None  # its class was unloaded
        scopes = self._scopes(nmethods, kind, blob, offset)
        # Where scopes cannot be read the method itself is still known, and what was inlined in it is not.
        frames = [] if scopes is not None else [_mark(UNREADABLE, blob + offset)]
        frames += self._frames(scopes or [Scope(nmethods.method(blob), None)], blob + offset)
        # Its methods are there as long as it is: if it is still there, they were when their names were read.
        self._vm.memory.drop(blob - code_cache.header_bytes, code_cache.header_bytes + _NMETHOD_BYTES)
        is_there = code_cache.is_used(self._vm.memory, blob) and nmethods.compile_id(blob) == compile_id
        return frames if is_there and nmethods.method(blob) else None

    def _scopes(self, nmethods: NmethodReader, kind: str, blob: int, offset: int) -> list[Scope] | None:
        """The methods at a place; empty where nothing is recorded of it, None where the record cannot be read."""
        if kind != NMETHOD:
            return []
        try:
            return nmethods.scopes(blob, offset)
        except UnreadableError:
            self.n_unreadable += 1
            return None

    def _frames(self, scopes: Sequence[Scope], ip: int) -> list[Frame]:
        frames = []
        for scope in scopes:
            facts = self._method(scope.method)
            if scope.bci is not None and facts.code_bytes and scope.bci >= facts.code_bytes:
                raise UnreadableError("a bytecode beyond the end of its method")
            kind = FrameKind.JAVA_COMPILED if scope is scopes[-1] else FrameKind.JAVA_INLINED
            line = None if scope.bci is None else facts.line(scope.bci)
            frames.append(Frame(facts.name, None, ip, max(scope.bci or 0, 0), kind, facts.file, line))
        return frames


def _mark(text: str, ip: int) -> Frame:
    return Frame(text, None, ip, 0, FrameKind.STUB)
