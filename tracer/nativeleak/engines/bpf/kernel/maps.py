"""The kernel maps of one trace, by what they hold: targets, unwind tables, counters, threads, events.

The live set, the sites and the stacks are in files of their own (``live_set.py``, ``site_store.py``,
``stack_store.py``).
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap, Libbpf
from nativeleak.engines.bpf.kernel.ring import RingBuffer

U32: Final = struct.Struct("=I")
_FILLING: Final = 1 / 32
"""Share of the ring that may wait to be read."""

Take = Callable[[str, int, int], BpfMap]
"""A map by its name, with the sizes of key and value in bytes."""


class TargetTable:
    """The traced processes by slot, the state of each one's window, and where its code is mapped."""

    def __init__(self, take: Take) -> None:
        self._targets: dict[int, abi.Target] = {}
        self._map = take("targets", 4, ctypes.sizeof(abi.Target))
        self._slots = take("slots", 4, 4)
        self._windows = take("windows", 4, 4)
        self._mappings = take("mappings", 4, ctypes.sizeof(abi.Mappings))

    def add(self, slot: int, tgid: int, target: abi.Target) -> None:
        """Make a process known; its window stays closed."""
        target.tgid = tgid
        self._targets[slot] = target
        self._write(slot)
        self._slots.update(U32.pack(tgid), U32.pack(slot))

    def remove(self, slot: int) -> int:
        """Drop a process; returns its tgid."""
        tgid = self._targets.pop(slot).tgid
        self._slots.delete(U32.pack(tgid))
        return int(tgid)

    def open_window(self, slot: int, start_ns: int) -> None:
        """From now on everything counts. ``start_ns`` is CLOCK_MONOTONIC."""
        self._targets[slot].start_ns = start_ns
        self._write(slot)
        self.set_window(slot, abi.WindowState.ON)

    def set_window(self, slot: int, state: abi.WindowState) -> None:
        """What the programs do for a target from now on."""
        self._windows.update(U32.pack(slot), U32.pack(state))

    def set_generation(self, generation: int) -> None:
        """Double the birth slices' width; see ``ledger/slices.py``."""
        for slot, target in self._targets.items():
            target.generation = generation
            self._write(slot)

    def set_sampling(self, rate: int, above: int, flags: abi.TargetFlag) -> None:
        """Which blocks are kept from now on: one in about ``rate`` bytes, all of at least ``above``; rate 0: all."""
        for slot, target in self._targets.items():
            target.sample_rate, target.sample_above, target.flags = rate, above, flags
            self._write(slot)

    def set_mappings(self, slot: int, mappings: Sequence[tuple[int, int, int, int]]) -> None:
        """Say where code is mapped in a target: (start, end, bias, table), in order of address.

        The kernel side goes on with the old ones until the new ones are whole.
        """
        target = self._targets[slot]
        epoch = (target.epoch + 1) & 0xFFFF_FFFF
        value = abi.Mappings(n=min(len(mappings), abi.MAX_MAPPINGS))
        for entry, (start, end, bias, table) in zip(value.mappings, mappings, strict=False):
            entry.start, entry.end, entry.bias, entry.table = start, end, bias & (1 << 64) - 1, table
        self._mappings.update(U32.pack(slot * 2 + (epoch & 1)), bytes(value))
        target.epoch = epoch
        self._write(slot)

    def _write(self, slot: int) -> None:
        self._map.update(U32.pack(slot), bytes(self._targets[slot]))


class TableStore:
    """The unwind tables, each a map of its own inside a map."""

    def __init__(self, libbpf: Libbpf, take: Take) -> None:
        self._libbpf, self._map = libbpf, take("tables", 4, 4)
        self._n = 0
        self.n_bytes = 0
        """Kernel memory of all tables."""

    def add(self, words: bytes) -> int:
        """Put an unwind table into the kernel; returns its index.

        Args:
            words: As ``unwind/pack.py`` makes them, a multiple of 4 KiB.

        Raises:
            OSError: No room.
        """
        if self._n >= abi.MAX_TABLES:
            raise OSError(errno.ENOSPC, f"more than {abi.MAX_TABLES} objects with unwind tables")
        fd = self._libbpf.create_table_map(len(words) // abi.CHUNK_BYTES, words)
        try:
            index = self._n
            self._map.update(U32.pack(index), U32.pack(fd))
        finally:
            os.close(fd)
        self._n += 1
        self.n_bytes += len(words)
        return index


class ThreadTable:
    """The threads of the targets, as the kernel side keeps them: a direct-mapped cache, and a hash for the others."""

    def __init__(self, take: Take) -> None:
        self._cache = take("thread_cache", 4, abi.THREAD_BYTES)
        self._rest = take("threads", 4, abi.THREAD_BYTES)

    def forget(self, tid: int) -> None:
        """Drop a thread."""
        self._rest.delete(U32.pack(tid))
        place = U32.pack(1 + tid % abi.THREAD_CACHE_SIZE)
        thread = self._cache.lookup(place)
        if thread is not None and U32.unpack_from(thread, abi.THREAD_TID_AT) == (tid,):
            self._cache.update(place, bytes(abi.THREAD_BYTES))


class CounterTable:
    """Counters that each processor keeps for itself."""

    def __init__(self, take: Take, n_cpus: int) -> None:
        self._map, self._values = take("counters", 4, 8 * n_cpus), struct.Struct(f"={n_cpus}Q")

    def read(self, counters: Iterable[abi.Counter]) -> dict[abi.Counter, int]:
        """Counters, summed over the processors."""
        totals = {}
        for counter in counters:
            value = self._map.lookup(U32.pack(counter))
            totals[counter] = sum(self._values.unpack(value)) if value else 0
        return totals


class EventReader:
    """The ring buffer of events.

    Args:
        libbpf: The library, which reads it.
        take: Gives the map ``events``.
        ring_bytes: Its size.
        on_event: Gets each event while ``consume`` runs; the structure is valid during the call only.
    """

    def __init__(self, libbpf: Libbpf, take: Take, ring_bytes: int, on_event: Callable[[abi.Event], None]) -> None:
        self._on_event = on_event
        self._filling_bytes = _FILLING * ring_bytes
        self._error: BaseException | None = None
        self._ring = RingBuffer(libbpf, take("events", 0, 0).fd, self._on_sample)

    @property
    def epoll_fd(self) -> int:
        """Readable when there are events."""
        return self._ring.epoll_fd

    @property
    def is_filling(self) -> bool:
        """Whether more events wait than may be left waiting."""
        return self._ring.waiting_bytes > self._filling_bytes

    def consume(self, within_s: float = math.inf) -> int:
        """Hand the waiting events to ``on_event``; returns how many.

        Args:
            within_s: After this time the rest waits for the next call.

        Raises:
            BaseException: What ``on_event`` raised.
        """
        n = self._ring.consume(within_s)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return n

    def close(self) -> None:
        """Free the reader; the map itself stays."""
        self._ring.close()

    def _on_sample(self, address: int, size: int) -> None:
        """An exception must not unwind into libbpf: it is kept, and raised by ``consume``."""
        try:
            if size == ctypes.sizeof(abi.Event):
                self._on_event(abi.Event.from_address(address))
        except BaseException as error:
            self._error = self._error or error
