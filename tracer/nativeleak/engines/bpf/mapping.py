"""Kernel events on address space, as the interval map takes them."""

from __future__ import annotations

from nativeleak.engines.bpf import abi
from nativeleak.errors import NativeleakError
from nativeleak.ledger.mapping_events import (
    BrkExit,
    MappingEvent,
    MmapExit,
    MprotectExit,
    MremapEntry,
    MremapExit,
    MunmapEntry,
    ShmatExit,
    ShmdtEntry,
    UnmapFailed,
)
from nativeleak.target.procfs import read_maps

_MAP_ANONYMOUS = 0x20
_MAX_ERRNO = 4095


def to_mapping_event(event: abi.Event, start_ns: int, pid: int) -> MappingEvent | None:
    """The event as the interval map takes it; None for one that changes nothing.

    What an allocator maps for itself is one site: whose call it was says nothing about the program.

    Args:
        start_ns: When the target's window opened.
        pid: The target, to look up how long a shared segment is.
    """
    args, tid = event.args, event.tid
    in_allocator = bool(event.flags & abi.IN_ALLOCATOR)
    thread, stack = (0, 0) if in_allocator else (event.thread, event.stack)
    time_s = (event.time_ns - start_ns) / 1e9
    match event.type:
        case abi.EventType.MMAP:
            addr, length, prot, flags = event.ret & (1 << 64) - 1, args[1], args[2], args[3]
            is_file = not flags & _MAP_ANONYMOUS
            return MmapExit(tid, addr, length, prot, flags, is_file, thread, stack, in_allocator, time_s)
        case abi.EventType.MUNMAP:
            return MunmapEntry(tid, args[0], args[1])
        case abi.EventType.MUNMAP_FAILED:
            return UnmapFailed(tid)
        case abi.EventType.MREMAP:
            return MremapEntry(tid, args[0], args[1])
        case abi.EventType.MREMAP_DONE:
            if -_MAX_ERRNO <= event.ret < 0:
                return UnmapFailed(tid)
            return MremapExit(tid, args[0], args[1], event.ret, args[2], args[3], thread, stack, in_allocator, time_s)
        case abi.EventType.MPROTECT:
            return MprotectExit(tid, args[0], args[1], args[2])
        case abi.EventType.BRK:
            return BrkExit(tid, event.ret, thread, stack, in_allocator, time_s)
        case abi.EventType.SHMAT:
            length = _mapping_length(pid, event.ret)
            return ShmatExit(tid, event.ret, length, thread, stack, in_allocator, time_s) if length else None
        case abi.EventType.SHMDT:
            return ShmdtEntry(tid, args[0])
    return None


def _mapping_length(pid: int, address: int) -> int:
    try:
        return next((entry.end - entry.start for entry in read_maps(pid) if entry.start == address), 0)
    except NativeleakError:
        return 0
