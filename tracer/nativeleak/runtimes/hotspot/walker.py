"""What the walker in the kernel and HotSpot's side here share: the configuration, and codes of Java frames.

Source: ``bpf/nativeleak.h``, field for field.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nativeleak.runtimes.hotspot.layout import WalkerConfig

N_JAVA_HEAPS: Final = 4


class JavaFrame(IntEnum):
    """``enum nl_found``, from 16 on: what the walker found of Java."""

    COMPILED = 16
    INTERPRETED = 17
    ENTRY = 18
    BARRIER = 19
    NO_BLOB = 20


class JavaHeap(ctypes.Structure):
    """``struct nl_java_heap``."""

    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64), ("segments", ctypes.c_uint64))


class Java(ctypes.Structure):
    """``struct nl_java``."""

    _fields_ = (
        ("code_low", ctypes.c_uint64),
        ("code_high", ctypes.c_uint64),
        ("heaps", JavaHeap * N_JAVA_HEAPS),
        ("interpreter_low", ctypes.c_uint64),
        ("interpreter_high", ctypes.c_uint64),
        ("call_stub_return", ctypes.c_uint64),
        ("return_barrier", ctypes.c_uint64),
        ("tls_offset", ctypes.c_uint64),
        ("tls_module", ctypes.c_uint32),
        ("dtv_stride", ctypes.c_uint32),
        ("segment_shift", ctypes.c_uint32),
        ("heap_block_bytes", ctypes.c_uint32),
        ("blob_frame_size", ctypes.c_uint32),
        ("nmethod_compile_id", ctypes.c_uint32),
        ("call_wrapper_offset", ctypes.c_int32),
        ("call_wrapper_anchor", ctypes.c_uint32),
        ("anchor_sp", ctypes.c_uint32),
        ("anchor_pc", ctypes.c_uint32),
        ("anchor_fp", ctypes.c_uint32),
        ("thread_anchor", ctypes.c_uint32),
        ("cont_entry", ctypes.c_uint32),
        ("cont_entry_bytes", ctypes.c_uint32),
        ("deopt_handler", ctypes.c_uint32),
        ("deopt_mh_handler", ctypes.c_uint32),
        ("deopt_handler_bytes", ctypes.c_uint32),
        ("orig_pc", ctypes.c_uint32),
        ("archive_low", ctypes.c_uint64),
        ("archive_high", ctypes.c_uint64),
        ("symbol_mask", ctypes.c_uint64),
        ("symbol_length", ctypes.c_uint32),
        ("symbol_body", ctypes.c_uint32),
        ("method_const", ctypes.c_uint32),
        ("const_pool", ctypes.c_uint32),
        ("const_name", ctypes.c_uint32),
        ("pool_holder", ctypes.c_uint32),
        ("pool_bytes", ctypes.c_uint32),
        ("class_name", ctypes.c_uint32),
    )


def pack(config: WalkerConfig) -> bytes:
    """The configuration as the kernel side takes it: ``struct nl_java``."""
    java = Java()
    for name, _ in Java._fields_:
        if name != "heaps":
            setattr(java, name, getattr(config, name))
    for entry, (low, high, segments) in zip(java.heaps, config.heaps, strict=False):
        entry.low, entry.high, entry.segments = low, high, segments
    return bytes(java)
