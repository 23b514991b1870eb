"""Kernel events on address space, as the interval map takes them."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.errors import NativeleakError
from nativeleak.ledger.mapping_events import (
    BrkExit,
    Giver,
    MappingEvent,
    MmapExit,
    MprotectExit,
    MremapEntry,
    MremapExit,
    MunmapEntry,
    RemovalExit,
    ShmatExit,
    ShmdtEntry,
    UnmapFailed,
)
from nativeleak.process.procfs import read_maps

_MAP_ANONYMOUS = 0x20
_MAX_ERRNO = 4095

# Events that belong to no site: type -> what is made of thread id and arguments.
_UNOWNED: Final[dict[int, Callable[[int, Sequence[int]], MappingEvent]]] = {
    abi.EventType.MUNMAP_FAILED: lambda tid, _: UnmapFailed(tid),
    abi.EventType.MREMAP: lambda tid, args: MremapEntry(tid, args[0], args[1]),
    abi.EventType.MPROTECT: lambda tid, args: MprotectExit(tid, args[0], args[1], args[2]),
    abi.EventType.SHMDT: lambda tid, args: ShmdtEntry(tid, args[0]),
    abi.EventType.SHMDT_FAILED: lambda tid, _: UnmapFailed(tid),
}


def to_mapping_event(
    event: abi.Event, start_ns: int, pid: int, segments: MutableMapping[int, int], *, in_allocator: bool
) -> MappingEvent | None:
    """The event as the interval map takes it; None for one that changes nothing.

    What an allocator maps for itself, or gives back, is one site: whose call it was says nothing about the program.

    Args:
        start_ns: When the target's window opened.
        pid: The target, to look up how long a shared segment from before the window is.
        segments: shmid -> bytes, of the segments whose making was seen; filled here.
        in_allocator: It was made inside of an allocator call.
    """
    args, tid = event.args, event.tid
    if event.type in _UNOWNED:
        return _UNOWNED[event.type](tid, args)
    if event.type == abi.EventType.SHMGET:
        if args[1]:  # 0 asks for a segment that exists, whatever its size
            segments[event.ret] = args[1]
        return None
    thread, stack = (0, 0) if in_allocator else (event.thread, event.stack)
    owner = (thread, stack, in_allocator, (event.time_ns - start_ns) / 1e9)
    match event.type:
        case abi.EventType.MUNMAP:
            return MunmapEntry(tid, args[0], args[1], Giver(thread, stack, in_allocator))
        case abi.EventType.SHMDT_DONE:
            return RemovalExit(tid, "shmdt", Giver(thread, stack, in_allocator))
        case abi.EventType.MMAP:
            addr, is_file = event.ret & (1 << 64) - 1, not args[3] & _MAP_ANONYMOUS
            return MmapExit(tid, addr, args[1], args[2], args[3], is_file, *owner)
        case abi.EventType.MREMAP_DONE:
            if -_MAX_ERRNO <= event.ret < 0:
                return UnmapFailed(tid)
            return MremapExit(tid, args[0], args[1], event.ret, args[2], args[3], *owner)
        case abi.EventType.BRK:
            return BrkExit(tid, event.ret, *owner, args[1])
        case abi.EventType.SHMAT:
            length = segments.get(args[0]) or _mapping_length(pid, event.ret)
            return ShmatExit(tid, event.ret, length, *owner) if length else None
    return None


def _mapping_length(pid: int, address: int) -> int:
    try:
        return next((entry.end - entry.start for entry in read_maps(pid) if entry.start == address), 0)
    except NativeleakError:
        return 0
