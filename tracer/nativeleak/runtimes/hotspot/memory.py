"""Memory of the target, read through /proc/PID/mem.

Scope: bounded reads of a live process that changes meanwhile. Pages are kept until ``flush``, so that what is read in
between is nearly of one moment. The descriptor stays with the address space it was opened on: after the target's end,
or its exec, every read fails.

Anonymous memory is read only where it is in memory (/proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst): a
page that was never touched holds zeros, and one that is swapped out is unreadable. A read would map the page of zeros
in the target, or swap the page in. Pages of files are read as they are: they lie in the page cache.
"""

from __future__ import annotations

import bisect
import os
from types import TracebackType
from typing import Final, Protocol, Self

from nativeleak.errors import NativeleakError
from nativeleak.process.procfs import PAGE_BYTES, read_maps

MAX_READ_BYTES: Final = 16 << 20
MAX_CACHED_PAGES: Final = 1024
_ENTRY_BYTES: Final = 8
_IS_PRESENT, _IS_SWAPPED = 0x80, 0x40  # bits 63 and 62 of an entry, in its last byte
_ADDRESS_LIMIT: Final = 1 << 63  # pread() takes a signed offset; user addresses are far below


class UnreadableError(NativeleakError):
    """The target's memory does not hold what was looked for."""


class Reader(Protocol):
    """Anything that gives bytes by address; what reads take."""

    def read(self, address: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` at ``address``.

        Raises:
            UnreadableError: They are not all there.
        """


class Memory:
    """Numbers and texts from a reader; little-endian.

    Args:
        reader: Where the bytes come from.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, address: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` at ``address``.

        Raises:
            UnreadableError: They are not all there, or are more than ``MAX_READ_BYTES``.
        """
        return self._reader.read(address, n_bytes)

    def u8(self, address: int) -> int:
        """An unsigned byte; raises as ``read`` does."""
        return self._reader.read(address, 1)[0]

    def u16(self, address: int) -> int:
        """An unsigned 16-bit number; raises as ``read`` does."""
        return int.from_bytes(self._reader.read(address, 2), "little")

    def u32(self, address: int) -> int:
        """An unsigned 32-bit number; raises as ``read`` does."""
        return int.from_bytes(self._reader.read(address, 4), "little")

    def i32(self, address: int) -> int:
        """A signed 32-bit number; raises as ``read`` does."""
        return int.from_bytes(self._reader.read(address, 4), "little", signed=True)

    def u64(self, address: int) -> int:
        """An unsigned 64-bit number, or a pointer; raises as ``read`` does."""
        return int.from_bytes(self._reader.read(address, 8), "little")

    def cstr(self, address: int, max_bytes: int = 512) -> str:
        """A text that ends in a NUL, as Latin-1; cut after ``max_bytes``.

        Raises:
            UnreadableError: It cannot be read up to its end.
        """
        text = b""
        while len(text) < max_bytes:
            # Up to the end of the page: the next one may not be there.
            n_bytes = min(PAGE_BYTES - address % PAGE_BYTES, max_bytes - len(text))
            part, nul, _ = self._reader.read(address, n_bytes).partition(b"\0")
            text += part
            if nul:
                break
            address += n_bytes
        return text.decode("latin-1")

    def drop(self, address: int, n_bytes: int) -> None:
        """Read these bytes from the target again when they are asked for next."""


class TargetMemory(Memory):
    """Memory of one process; a context manager, since it keeps /proc/PID/mem open.

    Args:
        pid: The process.

    Attributes:
        n_reads: System calls made so far.

    Raises:
        UnreadableError: There is no such process, or it may not be read with these rights.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(self)
        path = f"/proc/{pid}/mem"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableError(f"reading {path} failed: {error.strerror}") from error
        self._pid = pid
        try:
            self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._pagemap = -1  # a kernel without CONFIG_PROC_PAGE_MONITOR
        self._anonymous: list[tuple[int, int]] = []
        self._pages: dict[int, bytes] = {}
        self.n_reads = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; every read fails from then on. May be called again."""
        self.flush()
        for fd in (self._fd, self._pagemap):
            if fd >= 0:
                os.close(fd)
        self._fd = self._pagemap = -1

    def flush(self) -> None:
        """Forget the pages read so far."""
        self._pages.clear()

    def drop(self, address: int, n_bytes: int) -> None:
        """Read these bytes from the target again when they are asked for next."""
        for page in range(address - address % PAGE_BYTES, address + n_bytes, PAGE_BYTES):
            self._pages.pop(page, None)

    def read(self, address: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` at ``address``.

        Raises:
            UnreadableError: They are not all there, or are more than ``MAX_READ_BYTES``.
        """
        offset = address % PAGE_BYTES
        if offset + n_bytes > PAGE_BYTES or n_bytes < 0:
            return self._pread(address, n_bytes)
        page = self._pages.get(address - offset)
        if page is None:
            page = self._pread(address - offset, PAGE_BYTES)
            if len(self._pages) >= MAX_CACHED_PAGES:
                self._pages.clear()
            self._pages[address - offset] = page
        return page[offset : offset + n_bytes]

    def _pread(self, address: int, n_bytes: int) -> bytes:
        if not 0 <= address < _ADDRESS_LIMIT or not 0 <= n_bytes <= MAX_READ_BYTES or self._fd < 0:
            raise UnreadableError(f"reading {n_bytes} bytes at {address:#x} failed: no such memory")
        flags = self._flags(address, n_bytes)
        if min(flags, default=_IS_PRESENT) & _IS_PRESENT:
            return self._pread_present(address, n_bytes)
        data = bytearray()
        for flag in flags:
            place = address + len(data)
            length = min(PAGE_BYTES - place % PAGE_BYTES, n_bytes - len(data))
            is_present, is_swapped = flag & _IS_PRESENT, flag & _IS_SWAPPED
            if is_swapped and not is_present:
                raise UnreadableError(f"reading {n_bytes} bytes at {address:#x} failed: swapped out")
            if is_present or not self._is_anonymous(place):
                data += self._pread_present(place, length)
            else:
                data += bytes(length)
        return bytes(data)

    def _pread_present(self, address: int, n_bytes: int) -> bytes:
        self.n_reads += 1
        try:
            data = os.pread(self._fd, n_bytes, address)
        except OSError as error:
            raise UnreadableError(f"reading {n_bytes} bytes at {address:#x} failed: {error.strerror}") from error
        if len(data) != n_bytes:
            raise UnreadableError(f"reading {n_bytes} bytes at {address:#x} failed: not all of it is mapped")
        return data

    def _flags(self, address: int, n_bytes: int) -> bytes:
        """The last byte of the page map's entry of each page; empty where the kernel does not say."""
        if self._pagemap < 0 or not n_bytes:
            return b""
        first, last = address // PAGE_BYTES, (address + n_bytes - 1) // PAGE_BYTES
        try:
            entries = os.pread(self._pagemap, _ENTRY_BYTES * (last - first + 1), _ENTRY_BYTES * first)
        except (OSError, OverflowError):
            return b""
        return entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES] if len(entries) == _ENTRY_BYTES * (last - first + 1) else b""

    def _is_anonymous(self, address: int) -> bool:
        """Whether an address lies in private memory without a file behind it."""
        if not self._anonymous:
            try:
                maps = read_maps(self._pid)
            except NativeleakError:
                return False
            # Once is enough: a JVM reserves what it commits later, and most pages that are asked for are in memory.
            readable = (entry for entry in maps if not entry.inode and entry.perms.startswith("r"))
            self._anonymous = [(entry.start, entry.end) for entry in readable]
        place = bisect.bisect_right(self._anonymous, (address, _ADDRESS_LIMIT)) - 1
        return place >= 0 and address < self._anonymous[place][1]
