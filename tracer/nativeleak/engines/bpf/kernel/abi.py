"""Structures that user space shares with the BPF programs.

Source: ``bpf/nativeleak.h``, field for field. A unit test compares every offset, size and number of an enum with the
type information of the compiled object.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag
from typing import Final

from nativeleak.arch import X86_64
from nativeleak.probes.calls import AllocCall

MAX_TARGETS: Final = 64
SLICES: Final = 16
BANKS: Final = 2
MAX_FRAMES: Final = 512
CHUNK_FRAMES: Final = 64
MAX_MAPPINGS: Final = 2048
MAX_TABLES: Final = 4096
CHUNK_BYTES: Final = 4096
"""Unwind tables are arrays of elements of this size."""
NO_TABLE: Final = 0xFFFFFFFF
N_WRAPPERS: Final = 4
SCRATCH_PER_CPU: Final = 8
N_FUNCTIONS: Final = 16
"""Functions of a target whose return may be declined, and 0 for all others."""
MAX_SAMPLE_RATE: Final = 1 << 28
MIN_SAMPLE_RATE: Final = 1 << 10
CERTAIN_RATES: Final = 16
"""Blocks of so many sampling rates are kept for certain."""
BORN_SHIFT: Final = 20
"""Birth times count in units of 2^20 ns."""
SLICE_SHIFT: Final = 10
"""A slice of generation 0 is 2^10 such units wide."""
SLOT_SHIFT: Final = 56
MAX_CALL_SITES: Final = 4096
ADDRESS_MASK: Final = (1 << SLOT_SHIFT) - 1
IN_ALLOCATOR: Final = 1
RETIRING: Final = 0x52455449
"""``check`` of a site that is about to be deleted."""
TWIN: Final = 1 << 31
"""Set in the thread of the site that stands in for one that is about to be deleted."""
RETIRING_SITES: Final = 256
"""Sites that one run of ``on_retire`` marks."""


class Counter(IntEnum):
    """``enum nl_counter``."""

    LOST_ALLOCATIONS = 0
    LOST_BYTES = 1
    LOST_STACKS = 2
    STACK_COLLISIONS = 3
    NO_SCRATCH = 4
    LOST_EVENTS = 5
    SITES_FULL = 6
    THREADS_FULL = 7
    UNMATCHED_FREES = 8
    FREE_NULL = 9
    NESTED = 10
    SKIPPED = 11
    FAILED = 12
    ABANDONED = 13
    OVERWRITTEN = 14
    BAD_POINTER = 15
    SYSCALLS = 16
    CALLS = 17
    FREES = 18
    DECLINED = 19
    UNSAMPLED = 20
    UNSAMPLED_FREES = 21
    NUMBERED = 22


class EventType(IntEnum):
    """``enum nl_event_type``."""

    NONE = 0
    STACK = 1
    MMAP = 2
    MUNMAP = 3
    MUNMAP_FAILED = 4
    MREMAP = 5
    MREMAP_DONE = 6
    MPROTECT = 7
    BRK = 8
    SHMGET = 9
    SHMAT = 10
    SHMDT = 11
    SHMDT_FAILED = 12
    THREAD = 13
    THREAD_EXIT = 14
    EXEC = 15
    OOM_KILL = 16
    SHMDT_DONE = 17
    BUSY = 18


class FrameSource(IntEnum):
    """``enum nl_found``: how a native frame was found. From 16 on the codes are those of ``runtimes/``."""

    EXACT = 0
    GUESS = 1
    SIGNAL = 2
    FP = 3
    GAP = 4
    SITE = 5


class End(IntEnum):
    """``enum nl_end``: how a walk ended."""

    ROOT = 0
    STEPS = 1
    NO_MAPPING = 2
    NO_TABLE = 3
    RULE = 4
    READ = 5
    BAD_SP = 6
    STALL = 7
    NO_FP = 8
    JAVA_FRAME = 10


class Unwind(IntEnum):
    """``enum nl_unwind``."""

    FP = 0
    TABLES = 1


class MissingFeature(IntFlag):
    """``enum nl_lack``: features that a kernel lacks; ``features.py`` has a row for each."""

    ATOMICS = 1
    COOKIES = 2
    REGISTERS = 4


class WindowState(IntEnum):
    """``enum nl_state``: what the programs do for a target."""

    OFF = 0
    ON = 1
    COUNTING = 2
    """Allocator probes count that they ran, and do nothing else."""


class TargetFlag(IntFlag):
    """``enum nl_target_flag``."""

    PARTIAL = 1
    FREES = 2
    NO_BUDGET = 4


class Mapping(ctypes.Structure):
    """``struct nl_mapping``."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("bias", ctypes.c_uint64),
        ("table", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Mappings(ctypes.Structure):
    """``struct nl_mappings``."""

    _fields_ = (("n", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("mappings", Mapping * MAX_MAPPINGS))


class Wrapper(ctypes.Structure):
    """``struct nl_wrapper``."""

    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("frame_bytes", ctypes.c_uint64))


class Target(ctypes.Structure):
    """``struct nl_target``."""

    _fields_ = (
        ("tgid", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("start_ns", ctypes.c_uint64),
        ("min_size", ctypes.c_uint64),
        ("max_size", ctypes.c_uint64),
        ("wrappers_start", ctypes.c_uint64),
        ("wrappers_end", ctypes.c_uint64),
        ("generation", ctypes.c_uint32),
        ("max_depth", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("unwind", ctypes.c_uint32),
        ("wrappers", Wrapper * N_WRAPPERS),
        ("sample_rate", ctypes.c_uint64),
        ("sample_above", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("pad2", ctypes.c_uint32),
        ("start_tick", ctypes.c_uint64),
    )


class Live(ctypes.Structure):
    """``struct nl_live``."""

    _fields_ = (
        ("bytes", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("thread", ctypes.c_uint32),
        ("born", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("kept", ctypes.c_uint32),
    )


class SiteKeyStruct(ctypes.Structure):
    """``struct nl_site_key``."""

    _fields_ = (("stack", ctypes.c_uint64), ("thread", ctypes.c_uint32), ("slot", ctypes.c_uint32))


class MarkedSite(ctypes.Structure):
    """``struct nl_marked_site``."""

    _fields_ = (("key", SiteKeyStruct), ("check", ctypes.c_uint32), ("pad", ctypes.c_uint32))


class MarkedSites(ctypes.Structure):
    """``struct nl_marked_sites``."""

    _fields_ = (("n", ctypes.c_uint64), ("sites", MarkedSite * RETIRING_SITES))


class Slice(ctypes.Structure):
    """``struct nl_slice``."""

    _fields_ = (("bytes", ctypes.c_int64), ("count", ctypes.c_int64))


class Site(ctypes.Structure):
    """``struct nl_site``."""

    _fields_ = (
        ("freed_bytes", ctypes.c_uint64),
        ("freed_count", ctypes.c_uint64),
        ("allocated_bytes", ctypes.c_uint64),
        ("allocated_count", ctypes.c_uint64),
        ("check", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("slices", Slice * (BANKS * SLICES)),
    )


class StackStruct(ctypes.Structure):
    """``struct nl_stack``."""

    _fields_ = (
        ("n", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
        ("check", ctypes.c_uint32),
        ("slot", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Event(ctypes.Structure):
    """``struct nl_event``; ``args`` and ``comm`` share their place."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("slot", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("time_ns", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("ret", ctypes.c_int64),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 6),
    )


def cookie(
    call: AllocCall,
    slot: int,
    offset: int = 0,
    pushed_bytes: int = 0,
    arguments: tuple[int, int, int] = X86_64.arguments,
    function: int = 0,
) -> int:
    """Cookie of a probe: ``NL_COOKIE_*``.

    Args:
        offset: Bytes from the function's first instruction to the probe.
        pushed_bytes: What the instructions before the probe have pushed.
        arguments: Registers of arguments 1 to 3 at the probe, as x86-64 counts them; not used on other machines.
        function: Number among the target's functions whose return may be declined, below ``N_FUNCTIONS``; 0 for none.
    """
    registers = arguments[0] | arguments[1] << 4 | arguments[2] << 8
    return int(call) | slot << 8 | offset << 16 | pushed_bytes << 32 | registers << 48 | function << 60


def site_cookie(call: AllocCall, slot: int, n_bytes: int, number: int) -> int:
    """Cookie of a probe at a call instruction: ``NL_SITE_*``.

    Args:
        call: What it calls.
        slot: Of the target.
        n_bytes: Length of the instruction.
        number: Of the call site, below ``MAX_CALL_SITES``.
    """
    return cookie(call, slot, n_bytes, number)


def site_return_cookie(slot: int, register: int) -> int:
    """Cookie of a probe where a watched call returns to, with the register that holds the block."""
    return slot << 8 | register << 32


def exit_cookie(slot: int, depth_bytes: int, register: int, condition: int | None) -> int:
    """Cookie of a probe at an exit: ``NL_EXIT_*``.

    Args:
        slot: Of the target.
        depth_bytes: From the stack pointer to the return address, a multiple of 8.
        register: As ``probes.exits.Exit`` has it.
        condition: Of a branch, None where the place always is an exit.
    """
    conditional = 0 if condition is None else condition << 40 | 1 << 44
    return slot << 8 | depth_bytes // 8 << 16 | register << 32 | conditional


THREAD_BYTES: Final = 216
"""Size of ``struct nl_thread``."""
THREAD_TID_AT: Final = 92
"""Where the tid is in it; user space reads nothing else of it."""
LIVE_CACHE_BITS: Final = 16
"""The direct-mapped cache of the live set has 2^16 entries."""
SITE_CACHE_BITS: Final = 10
"""The same for sites."""
HASH_FACTOR: Final = 0x9E3779B97F4A7C15
LIVE_CACHE_BUSY: Final = 1
"""Key of a cache entry that is being written."""
THREAD_CACHE_SIZE: Final = 4096
"""Entries of the direct-mapped cache of threads, which the low bits of a tid select."""
FRAME_BYTES: Final = 16
"""Size of ``struct nl_frame``: the address with its ``Found`` in the upper byte, and a second word."""
