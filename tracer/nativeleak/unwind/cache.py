"""Tables kept on disk, so that the next trace need not make them again.

Scope: one folder of our own, one file per table, bounded. No file is trusted: one that is not ours, that others may
write to, or whose digest is wrong is ignored and replaced. No failure is an error for the caller; without a cache
tables are made each time.

The key is more than the build id. Anyone can make a file with libc's build id and other CFI. Owner and size keep it
from replacing the real one, which belongs to root.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nativeleak.unwind.pack import FORMAT_VERSION, MAX_START_WORD
from nativeleak.unwind.table import UnwindTable, decode, encode

MAX_FILES: Final = 512
MAX_BYTES: Final = 256 << 20

_MAX_FILE_BYTES: Final = 4 * MAX_START_WORD + (1 << 20)
_BUILD_ID: Final = re.compile(r"[0-9a-f]{8,64}")
_NAME: Final = re.compile(r"[0-9a-f]{8,64}-\d+-\d+-(?:calls|full)-v\d+(?:\.[0-9a-f]{16})?")
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class CacheKey(NamedTuple):
    """Key of a table.

    Attributes:
        build_id: Build id in hex.
        owner: The user the file belongs to.
        n_bytes: Length of the file.
        full: Whether the table covers every address.
    """

    build_id: str
    owner: int
    n_bytes: int
    full: bool

    @property
    def name(self) -> str:
        """Name of the table's file; empty for an invalid build id, whose table is not stored."""
        if not _BUILD_ID.fullmatch(self.build_id):
            return ""
        kind = "full" if self.full else "calls"
        return f"{self.build_id}-{self.owner}-{self.n_bytes}-{kind}-v{FORMAT_VERSION}"


def default_folder() -> Path:
    """Folder of the tables: below XDG_CACHE_HOME if that is set, else in /var/cache for root, else in the home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if given.startswith("/"):
        return Path(given) / "nativeleak" / "unwind"
    if os.geteuid() == 0:
        return Path("/var/cache/nativeleak/unwind")
    return Path(os.path.expanduser("~")) / ".cache" / "nativeleak" / "unwind"  # noqa: PTH111  does not raise


class TableCache:
    """Tables in a folder; the least recently used ones are removed.

    Args:
        folder: Created with the first table, readable only by us.
        max_files: Maximum number of tables.
        max_bytes: Maximum bytes of all tables.
    """

    def __init__(self, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes

    def load(self, key: CacheKey) -> UnwindTable | None:
        """The table of a key; None if no trusted file has it."""
        if not key.name:
            return None
        try:
            with self._open_folder() as folder:
                data = _read(folder, key.name)
        except OSError:
            return None
        table = decode(data) if data is not None else None
        if table is None or (table.build_id, table.full) != (key.build_id, key.full):
            return None
        return table

    def store(self, key: CacheKey, table: UnwindTable) -> None:
        """Store a table, and remove the least recently used ones if a limit is exceeded."""
        if not key.name or table.build_id != key.build_id or table.full != key.full:
            return
        with contextlib.suppress(OSError):
            _make_folder(self._folder)
            with self._open_folder() as folder:
                _write(folder, key.name, encode(table))
                self._make_room(folder, key.name)

    @contextlib.contextmanager
    def _open_folder(self) -> Iterator[int]:
        """The folder's descriptor. Every file is opened through it, so that nobody can replace the folder meanwhile.

        Raises:
            OSError: The folder does not exist, or others may write to it.
        """
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _is_ours(os.fstat(fd)):
                raise PermissionError(f"{self._folder} belongs to others")
            yield fd
        finally:
            os.close(fd)

    def _make_room(self, folder: int, newest: str) -> None:
        """Remove the least recently used tables until both limits hold; files of other names stay."""
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.name != newest:
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, entry.name))
        found.sort(reverse=True)
        n_bytes = os.stat(newest, dir_fd=folder, follow_symlinks=False).st_size
        for index, (_, size, name) in enumerate(found, 2):
            n_bytes += size
            if index > self._max_files or n_bytes > self._max_bytes:
                os.unlink(name, dir_fd=folder)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _make_folder(folder: Path) -> None:
    for each in (*reversed(folder.parents), folder):
        with contextlib.suppress(FileExistsError):
            each.mkdir(0o700)


def _read(folder: int, name: str) -> bytes | None:
    """The bytes of a file that only we can have written; sets its time, which records its last use, to now."""
    fd = os.open(name, os.O_RDONLY | _OPEN, dir_fd=folder)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status) or status.st_size > _MAX_FILE_BYTES:
            return None
        os.utime(fd)
        return file.read(_MAX_FILE_BYTES)


def _write(folder: int, name: str, data: bytes) -> None:
    """Write a file atomically: readers see the old one or all of the new one."""
    temporary = f"{name}.{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
