"""What was worked out about a library once, kept on disk: placements by build id.

One JSON file in the user's cache folder, for root in /var/cache. It only saves time: a file that is damaged, of another
version or another user's counts as empty, and one that cannot be written is not written. Two tracers that write at one
time lose one's entry, nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_VERSION: Final = 1
_MAX_ENTRIES: Final = 256
_MAX_BYTES: Final = 8 << 20
_FILE: Final = "placements.json"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/nativeleak``, else /var/cache/nativeleak for root and ~/.cache/nativeleak for others."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if chosen.startswith("/"):
        return Path(chosen, "nativeleak")
    if os.geteuid() == 0:
        return Path("/var/cache/nativeleak")
    home = os.environ.get("HOME", "")
    return Path(home if home.startswith("/") else "/nonexistent", ".cache", "nativeleak")


class PlacementCache:
    """Rows by key. Nothing here raises: what cannot be read or written is as if it were not there.

    Args:
        folder: Where the file is; made when something is stored.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder()

    def find(self, key: str) -> list[object] | None:
        """The rows stored under a key, None where there are none."""
        rows = self._read().get(key)
        return rows if isinstance(rows, list) else None

    def store(self, key: str, rows: Sequence[object]) -> None:
        """Keep rows under a key; of too many keys the one stored first goes."""
        entries = self._read()
        entries.pop(key, None)
        entries[key] = list(rows)
        while len(entries) > _MAX_ENTRIES:
            del entries[next(iter(entries))]
        text = json.dumps({"version": _VERSION, "entries": entries}, separators=(",", ":"))
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(text.encode())

    def _read(self) -> dict[str, object]:
        try:
            with self._open_folder() as folder_fd:
                fd = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
            with open(fd, "rb") as file:
                facts = os.fstat(fd)
                if not stat.S_ISREG(facts.st_mode) or not _is_ours(facts):
                    return {}
                content = json.loads(file.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict) or content.get("version") != _VERSION:
            return {}
        entries = content.get("entries")
        return entries if isinstance(entries, dict) else {}

    def _write(self, content: bytes) -> None:
        """Replace the file as a whole: a reader sees the old one or the new one.

        Raises:
            OSError: It cannot be.
        """
        with self._open_folder() as folder_fd:
            name = f".{_FILE}.{os.urandom(8).hex()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(name, flags, 0o600, dir_fd=folder_fd), "wb") as file:
                    file.write(content)
                os.rename(name, _FILE, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder_fd)
                raise

    @contextlib.contextmanager
    def _open_folder(self) -> Iterator[int]:
        """The folder's descriptor.

        Raises:
            OSError: There is none, or others may write to it.
        """
        folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _is_ours(os.fstat(folder_fd)):
                raise PermissionError(errno.EPERM, "another user's folder", str(self._folder))
            yield folder_fd
        finally:
            os.close(folder_fd)


def _is_ours(facts: os.stat_result) -> bool:
    """Whether it belongs to this user and no one else may write to it."""
    return facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
