"""The reader of a ring buffer map: libbpf's, with how much waits in it."""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import struct
import time
from collections.abc import Callable
from typing import Final

from nativeleak.engines.bpf.kernel.loaders.libbpf import Libbpf, check

_SAMPLE_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_U64: Final = struct.Struct("=Q")
_CHECKED_EVERY: Final = 64
"""Samples between two looks at the clock and the positions."""


class RingBuffer:
    """Consumer of a ring buffer map."""

    def __init__(self, libbpf: Libbpf, fd: int, on_sample: Callable[[int, int], None]) -> None:
        """``on_sample`` gets address and size of each sample; it must not raise."""

        def call(_context: int, data: int, size: int) -> int:
            on_sample(data, size)
            self._n_consumed += 1
            return -errno.ECANCELED if self._n_consumed % _CHECKED_EVERY == 0 and self._is_enough() else 0

        self._lib = libbpf.lib
        self._n_consumed = 0
        self._until_byte = 0
        self._until_s = math.inf
        self._function = _SAMPLE_FUNCTION(call)
        self._ring = self._lib.ring_buffer__new(fd, ctypes.cast(self._function, ctypes.c_void_p), None, None)
        if not self._ring:
            error = ctypes.get_errno()
            raise OSError(error, f"ring buffer: {os.strerror(error)}")
        # Two pages: how far it was read, how far it was written. Source: kernel/bpf/ringbuf.c.
        self._positions = mmap.mmap(fd, 2 * mmap.PAGESIZE, prot=mmap.PROT_READ)

    @property
    def waiting_bytes(self) -> int:
        """What waits to be consumed, about."""
        return max(0, self._written() - self._consumed())

    @property
    def epoll_fd(self) -> int:
        """Descriptor that is readable when there are samples."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def consume(self, within_s: float = math.inf) -> int:
        """Hand over what waits at this moment; returns how many samples.

        Samples that come meanwhile wait for the next call: a target that never pauses must not keep the reader here.

        Args:
            within_s: After this time the rest waits too.
        """
        self._n_consumed = 0
        self._until_byte = self._written()
        self._until_s = time.monotonic() + within_s
        result = self._lib.ring_buffer__consume(self._ring)
        if result != -errno.ECANCELED:
            check(result, "ring buffer")
        return self._n_consumed

    def _is_enough(self) -> bool:
        return self._consumed() >= self._until_byte or time.monotonic() > self._until_s

    def _consumed(self) -> int:
        return int(_U64.unpack_from(self._positions, 0)[0])

    def _written(self) -> int:
        return int(_U64.unpack_from(self._positions, mmap.PAGESIZE)[0])

    def close(self) -> None:
        """Free the consumer; the map itself stays."""
        if self._ring:
            self._positions.close()
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
