"""Gets the table of an object: from the cache, made here, or made by a child process.

Scope: small objects take milliseconds and are done at once. Large objects take up to a second and 100 MB, which is too
much for the recorder: a child makes their tables, while the recorder's loop runs until ``TableBuild.fileno`` is
readable. A child also makes the table of a C library, whose code may have to be disassembled.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nativeleak import children
from nativeleak.process.namespaces import open_regular
from nativeleak.symbols.elf import ElfFile
from nativeleak.symbols.source import ElfError, FileSource
from nativeleak.unwind.bare import is_c_library
from nativeleak.unwind.cache import CacheKey, TableCache
from nativeleak.unwind.eh_frame import n_frame_bytes
from nativeleak.unwind.table import UnwindTable, build_table, decode, no_table, text_ranges

MAX_HERE_BYTES: Final = 64 << 10
"""``.eh_frame`` up to this size is read here: 20 ms and under 1 MB. Longer ones left 3 MB and more in the recorder."""
MAX_TEXT_HERE_BYTES: Final = 4 << 20
"""Limit of code, which is searched for calls; linkers write less code than this with little CFI."""

_CHUNK: Final = 1 << 16
_MAX_RESULT_BYTES: Final = 32 << 20
_END_TIMEOUT_S: Final = 5.0


class TableBuild:
    """A table that is being made; a context manager, which ends an unfinished child.

    Args:
        table: The table, if it is ready.
        child: Otherwise the process that makes it.
        key: Key of the result in the cache.
        cache: The cache to store it in.
    """

    def __init__(
        self,
        table: UnwindTable | None,
        child: subprocess.Popen[bytes] | None = None,
        key: CacheKey | None = None,
        cache: TableCache | None = None,
    ) -> None:
        self._table = table
        self._child = child
        self._key = key
        self._cache = cache
        self._data = bytearray()
        if child is not None and child.stdout is not None:
            self._fd = child.stdout.fileno()
            os.set_blocking(self._fd, False)
        else:
            self._fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Descriptor that is readable whenever ``poll`` has something to do; valid until ``close``."""
        return self._fd

    def poll(self) -> bool:
        """Read available output without waiting; returns whether the table is ready."""
        while self._table is None and self._child is not None:
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return False
            self._data += data
            if not data or len(self._data) > _MAX_RESULT_BYTES:
                self._finish(self._child)
        return self._table is not None

    def result(self) -> UnwindTable:
        """The table; waits for it. After ``close`` only a table that was ready before."""
        if not self.poll():
            os.set_blocking(self._fd, True)
            self.poll()
        assert self._table is not None  # noqa: S101  a blocking poll ends with a table
        return self._table

    def close(self) -> None:
        """Release the descriptor and end a child that still runs. May be called again."""
        if self._child is not None and self._child.stdout is not None:
            self._end_child(self._child, kill=self._table is None)
            self._child.stdout.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._child = None
        self._fd = -1

    def _finish(self, child: subprocess.Popen[bytes]) -> None:
        """Take the result of the child, which has closed its end."""
        status = self._end_child(child, kill=len(self._data) > _MAX_RESULT_BYTES)
        table = decode(bytes(self._data))
        self._data.clear()
        if table is None or status != 0:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            reason = f"the process that reads its unwind information ended with {how}"
            build_id, full = (self._key.build_id, self._key.full) if self._key is not None else ("", False)
            self._table = no_table(reason, build_id=build_id, full=full)
            return
        self._table = table
        if self._cache is not None and self._key is not None:
            self._cache.store(self._key, table)

    @staticmethod
    def _end_child(child: subprocess.Popen[bytes], *, kill: bool) -> int:
        """Wait for the child, which is about to exit; returns its status."""
        if kill:
            child.kill()
        try:
            return child.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def build(source: str | int, build_id: str = "", *, full: bool = False, cache: TableCache | None = None) -> UnwindTable:
    """The table of an object; waits for it. See ``start_build``."""
    with start_build(source, build_id, full=full, cache=cache) as started:
        return started.result()


def start_build(
    source: str | int, build_id: str = "", *, full: bool = False, cache: TableCache | None = None
) -> TableBuild:
    """Begin to make the table of an object. An unreadable object gives an empty table with the reason.

    Args:
        source: Path of its file, or a descriptor, which the caller closes.
        build_id: Its build id in hex, empty if unknown; then the cache is not used.
        full: Cover every address; else only call sites.
        cache: Cache of tables; None for no cache.
    """
    try:
        fd = open_regular(source) if isinstance(source, str) else os.dup(source)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return TableBuild(no_table(f"opening it failed: {error}", build_id=build_id, full=full))
    file = FileSource(fd)
    try:
        return _start(file, fd, build_id, full, cache)
    finally:
        file.close()


def _start(file: FileSource, fd: int, build_id: str, full: bool, cache: TableCache | None) -> TableBuild:
    key = CacheKey(build_id, os.fstat(fd).st_uid, file.size, full)
    if cache is not None:
        kept = cache.load(key)
        if kept is not None:
            return TableBuild(kept)
    if _is_large(fd):
        try:
            return TableBuild(None, _start_child(fd, full), key, cache)
        except OSError as error:
            return TableBuild(no_table(f"starting a process failed: {error}", build_id=build_id, full=full))
    table = build_table(FileSource(os.dup(fd)), full=full)
    if cache is not None:
        cache.store(key, table)
    return TableBuild(table)


def _is_large(fd: int) -> bool:
    try:
        with ElfFile(FileSource(os.dup(fd))) as elf:
            known = n_frame_bytes(elf)
            text_bytes = sum(end - start for start, end in text_ranges(elf))
            is_long = (known or elf.source.size) > MAX_HERE_BYTES or text_bytes > MAX_TEXT_HERE_BYTES
            return is_long or is_c_library(elf)
    except ElfError:
        return False  # nothing of it will be read


def _start_child(fd: int, full: bool) -> subprocess.Popen[bytes]:
    """Start ``worker``; it finds our package and capstone, but nothing in the current folder."""
    folders = []
    capstone = importlib.util.find_spec("capstone")
    if capstone is not None and capstone.origin is not None:
        folders.append(str(Path(capstone.origin).parents[1]))
    with contextlib.ExitStack() as stack:
        inherited = os.dup(fd)
        stack.callback(os.close, inherited)
        return children.start(
            children.python_module("nativeleak.unwind.worker", str(inherited), _kind(full), folders=folders),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(inherited,),
        )


def _kind(full: bool) -> str:
    return "full" if full else "calls"
