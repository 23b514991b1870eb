"""Names for the instruction pointers of one process, also after it has exited.

Scope: one frame per instruction pointer; the report adds source lines and inlined frames. Every address gives a frame,
which may be unresolved. Each mapped file is opened when it is first seen and kept open, so that names are found for a
library that was unloaded or deleted, and after the target's end. Not safe for use by several threads at once.
"""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from nativeleak.closing import Closing
from nativeleak.errors import NativeleakError
from nativeleak.model.stack import Frame, FrameKind
from nativeleak.process.mapped import VDSO, MappedObject, executable_objects, open_object
from nativeleak.process.namespaces import max_open_files
from nativeleak.process.procfs import MapEntry, read_maps, read_start_ticks, read_status
from nativeleak.symbols.budget import Budget
from nativeleak.symbols.debugfiles import DEBUG_FOLDERS, debug_openers
from nativeleak.symbols.demangle import demangle, printable
from nativeleak.symbols.elf import BytesSource, ElfError, ElfFile, FileSource
from nativeleak.symbols.objects import SymbolizedObject
from nativeleak.symbols.perfmap import PerfMap

MAX_CACHED_FRAMES: Final = 65_536
MAX_DEPARTED: Final = 4096
"""Maximum unmapped mappings to remember, so that addresses of an unloaded library still get names."""
MAX_EARLY_OBJECTS: Final = 512
"""Maximum files that are opened when first seen; further files are opened when an address needs them."""

_MAX_VDSO_BYTES: Final = 1 << 20


class Symbolizer(Closing):
    """Names for one process.

    Args:
        pid: The process.
        debug_folders: Folders of separate debug files, in the target's file system and in ours.
        refresh_interval_s: Minimum time between two reads of the mappings because of unknown addresses.
        jit_kind: Mappings -> kind of the frames that the process's perf map names.

    Attributes:
        resolved_frames: Calls of ``resolve`` that found a name.
        unresolved_frames: Calls of ``resolve`` that found none.
    """

    def __init__(
        self,
        pid: int,
        *,
        debug_folders: Sequence[str] = DEBUG_FOLDERS,
        refresh_interval_s: float = 1.0,
        jit_kind: Callable[[Sequence[MapEntry]], FrameKind] = lambda _maps: FrameKind.NATIVE,
    ) -> None:
        self.resolved_frames = 0
        self.unresolved_frames = 0
        self._pid = pid
        self._debug_folders = tuple(debug_folders)
        self._budget = Budget()
        self._refresh_interval_s = refresh_interval_s
        self._refreshed_s = self._perf_map_read_s = -refresh_interval_s
        self._maps: list[MapEntry] = []
        self._starts: list[int] = []
        self._departed: deque[MapEntry] = deque(maxlen=MAX_DEPARTED)
        self._objects: dict[tuple[str, int], SymbolizedObject | None] = {}
        self._closed: set[tuple[str, int]] = set()
        self._told_unloaded: set[str] = set()
        self._modules: dict[str, str] = {}
        self._cache: dict[int, Frame] = {}
        self._jit_kind, self._find_jit_kind = FrameKind.NATIVE, jit_kind
        self._max_open = max_open_files() // 4  # some have a debug file, and others need descriptors too
        self._max_early = min(MAX_EARLY_OBJECTS, self._max_open)
        self._start_ticks, self._perf_map = _identity(pid)
        self.refresh_maps()

    def close(self) -> None:
        """Close all files; frames resolved so far stay in the cache, others will be unresolved."""
        for each in self._objects.values():
            if each is not None:
                each.close()
        self._objects = dict.fromkeys(self._objects)

    def refresh_maps(self) -> bool:
        """Read the target's mappings again and open new files; earlier mappings are remembered.

        Returns:
            Whether they could be read: False after the target's end, also if another process has its PID.
        """
        self._refreshed_s = time.monotonic()
        try:
            maps = read_maps(self._pid)
            is_same = read_start_ticks(self._pid) == self._start_ticks
        except (NativeleakError, ValueError):
            return False
        if not maps or not is_same:
            return False
        self._take(maps)
        self._refresh_perf_map()
        return True

    def resolve(self, ip: int, is_leaf: bool) -> Frame:
        """The frame of an instruction pointer.

        Args:
            ip: The thread's instruction pointer (``is_leaf``), or a return address. A return address is looked up one
                byte before, because a call may be the last instruction of its function.
            is_leaf: See ``ip``.

        Returns:
            A frame whose ``offset`` and ``module_offset`` belong to ``ip`` itself. Without a function its kind
            is ``UNRESOLVED`` and ``offset`` equals ``module_offset``, or is 0 outside of files.
        """
        key = ip << 1 | is_leaf
        frame = self._cache.get(key)
        if frame is None:
            frame, is_lasting = self._resolve(ip, ip if is_leaf else ip - 1)
            if is_lasting:
                if len(self._cache) >= MAX_CACHED_FRAMES:
                    del self._cache[next(iter(self._cache))]
                self._cache[key] = frame
        if frame.kind is FrameKind.UNRESOLVED:
            self.unresolved_frames += 1
        else:
            self.resolved_frames += 1
        return frame

    def function_at(self, address: int) -> Frame | None:
        """The function that begins exactly at an address; None if no symbol table has one there."""
        frame = self._cache.get(address << 1 | 1)
        if frame is None:
            frame, is_lasting = self._resolve(address, address)
            if is_lasting and len(self._cache) < MAX_CACHED_FRAMES:
                self._cache[address << 1 | 1] = frame
        return frame if frame.kind is FrameKind.NATIVE and frame.module is not None and not frame.offset else None

    def has_left(self, ip: int) -> bool:
        """Whether an address was code of a file that is not mapped there any more."""
        entry = self._current(ip - 1)
        if entry is not None and entry.executable and time.monotonic() - self._refreshed_s >= self._refresh_interval_s:
            self.refresh_maps()
            entry = self._current(ip - 1)
        is_code = entry is not None and entry.executable
        return not is_code and any(each.start < ip <= each.end for each in self._departed)

    def take_unloaded(self) -> list[str]:
        """Names of files that were unmapped for good since the last call, as far as is known."""
        mapped = {each.path for each in self._maps if each.executable}
        gone = {_module(each) for each in self._departed if each.path not in mapped}
        new = sorted(gone - self._told_unloaded)
        self._told_unloaded |= gone
        return new

    def _resolve(self, ip: int, address: int) -> tuple[Frame, bool]:
        """The frame, and whether it is final."""
        entry = self._find(address)
        if entry is None:
            return _unresolved(ip, "[unmapped]"), False
        key = (entry.dev, entry.inode)
        if entry.executable and (entry.inode or entry.path == VDSO):
            mapped = self._object(entry)
        else:
            mapped = self._objects.get(key) if entry.inode else None
        if mapped is not None:
            # Copies of one file under several paths are one to the reader.
            module = self._modules.setdefault(mapped.elf.build_id or _module(entry), _module(entry))
            return _frame_in_object(mapped, entry, module, ip, address), True
        frame = self._frame_of_jit(ip, address) if entry.executable else None
        return frame or _frame_without_object(entry, ip), False

    def _find(self, address: int) -> MapEntry | None:
        entry = self._current(address)
        if entry is None and time.monotonic() - self._refreshed_s >= self._refresh_interval_s:
            self.refresh_maps()
            entry = self._current(address)
        if entry is None or not entry.executable:  # what lies there now cannot be what ran there
            departed = (each for each in reversed(self._departed) if each.start <= address < each.end)
            entry = next(departed, entry)
        return entry

    def _current(self, address: int) -> MapEntry | None:
        index = bisect_right(self._starts, address) - 1
        return self._maps[index] if index >= 0 and address < self._maps[index].end else None

    def _take(self, maps: list[MapEntry]) -> None:
        now = set(maps)
        gone = [each for each in self._maps if each.executable and each.inode and each not in now]
        if gone:
            self._departed.extend(gone)
            self._cache.clear()
        self._maps = maps
        self._starts = [each.start for each in maps]
        if self._jit_kind is FrameKind.NATIVE:
            self._jit_kind = self._find_jit_kind(maps)
        known = self._objects.keys() | self._closed
        unknown = [each for each in maps if (each.dev, each.inode) not in known]
        for mapped in executable_objects(self._pid, unknown):
            if len(self._objects) < self._max_early:
                self._open(mapped)

    def _object(self, entry: MapEntry) -> SymbolizedObject | None:
        key = (entry.dev, entry.inode)
        if key not in self._objects:
            for mapped in executable_objects(self._pid, [entry]):
                self._open(mapped)
        return self._objects.get(key)

    def _make_room(self) -> None:
        """Close the oldest files if too many are open; they are opened again when needed."""
        held = [key for key, each in self._objects.items() if each is not None]
        if len(held) < self._max_open:
            return
        for key in held[: 1 + self._max_open // 4]:
            each = self._objects.pop(key)
            if each is not None:
                each.close()
            self._closed.add(key)

    def _open(self, mapped: MappedObject) -> None:
        self._make_room()
        try:
            source = self._read_vdso(mapped) if mapped.is_vdso else FileSource(open_object(self._pid, mapped))
            self._objects[mapped.key] = SymbolizedObject(
                ElfFile(source), mapped.path, debug_openers(self._pid), self._debug_folders, self._budget
            )
        except ElfError:
            self._objects[mapped.key] = None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                return  # tried again when an address of it is asked for
            self._objects[mapped.key] = None

    def _read_vdso(self, mapped: MappedObject) -> BytesSource:
        start, end, _ = mapped.ranges[0]
        fd = os.open(f"/proc/{self._pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return BytesSource(os.pread(fd, min(end - start, _MAX_VDSO_BYTES), start))
        finally:
            os.close(fd)

    def _frame_of_jit(self, ip: int, address: int) -> Frame | None:
        if self._perf_map is None:
            return None
        found = self._perf_map.lookup(address)
        if found is None and time.monotonic() - self._perf_map_read_s >= self._refresh_interval_s:
            self._refresh_perf_map()
            found = self._perf_map.lookup(address)
        if found is None:
            return None
        name, offset = found
        return Frame(printable(name), None, ip, offset + ip - address, self._jit_kind)

    def _refresh_perf_map(self) -> None:
        self._perf_map_read_s = time.monotonic()
        if self._perf_map is not None:
            self._perf_map.refresh()


def _identity(pid: int) -> tuple[int | None, PerfMap | None]:
    """Start time of the process and its perf map; None for a process that has exited."""
    try:
        status = read_status(pid)
        ns_pid = int((status.get("NSpid") or str(pid)).split()[-1])
        return read_start_ticks(pid), PerfMap(pid, ns_pid, int(status["Uid"].split()[1]))
    except (NativeleakError, ValueError, KeyError, IndexError):
        return None, None


def _frame_in_object(mapped: SymbolizedObject, entry: MapEntry, module: str, ip: int, address: int) -> Frame:
    vaddr = mapped.elf.offset_to_vaddr(address - entry.start + entry.offset)
    symbol = mapped.lookup(vaddr) if vaddr is not None else None
    build_id = mapped.elf.build_id
    if vaddr is None:
        return _frame_without_object(entry, ip)
    module_offset = vaddr + ip - address
    if symbol is None:
        return _unresolved(ip, f"[{module.strip('[]')}+0x{module_offset:x}]", module, module_offset, build_id)
    return Frame(
        demangle(symbol.name), module, ip, symbol.offset + ip - address, build_id=build_id, module_offset=module_offset
    )


def _frame_without_object(entry: MapEntry, ip: int) -> Frame:
    """The unresolved frame of an address in anonymous memory, or in a file that is no ELF file."""
    if not entry.inode:
        path = printable(entry.path)
        return _unresolved(ip, path if path.startswith("[") else "[anon]")
    if entry.deleted and entry.path == "/dev/zero":  # the kernel's name for shared anonymous memory
        return _unresolved(ip, "[anon]")
    module = _module(entry)
    offset = ip - entry.start + entry.offset
    return _unresolved(ip, f"[{module}+0x{offset:x}]", module, offset)


def _module(entry: MapEntry) -> str:
    return printable(entry.path.rsplit("/", 1)[-1])


def _unresolved(ip: int, where: str, module: str | None = None, offset: int = 0, build_id: str = "") -> Frame:
    return Frame(f"0x{ip:x} {where}", module, ip, offset, FrameKind.UNRESOLVED, build_id=build_id, module_offset=offset)
