"""The reader of a ring buffer map: libbpf's, with how much waits in it."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from typing import Final

from nativeleak.engines.bpf.kernel.loaders.libbpf import Libbpf, check

_SAMPLE_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_U64: Final = struct.Struct("=Q")


class RingBuffer:
    """Consumer of a ring buffer map."""

    def __init__(self, libbpf: Libbpf, fd: int, on_sample: Callable[[int, int], None]) -> None:
        """``on_sample`` gets address and size of each sample; it must not raise."""

        def call(_context: int, data: int, size: int) -> int:
            on_sample(data, size)
            return 0

        self._lib = libbpf.lib
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
        read, written = (_U64.unpack_from(self._positions, page * mmap.PAGESIZE)[0] for page in range(2))
        return max(0, int(written - read))

    @property
    def epoll_fd(self) -> int:
        """Descriptor that is readable when there are samples."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def consume(self) -> int:
        """Hand over what is there; returns how many samples."""
        return check(self._lib.ring_buffer__consume(self._ring), "ring buffer")

    def close(self) -> None:
        """Free the consumer; the map itself stays."""
        if self._ring:
            self._positions.close()
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
