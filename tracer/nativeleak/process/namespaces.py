"""Files as the target sees them: paths in its mount namespace and below its root.

Scope: opening, nothing else. A path of the target may lead through symbolic links that the target made; resolved by the
kernel from our side an absolute link would lead into our own file system, so the links are followed here, one
component at a time, and nothing leads out of the target's root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from pathlib import Path
from typing import Final

_MAX_LINKS: Final = 40  # the kernel's own limit, MAXSYMLINKS in include/linux/namei.h
_UNLIMITED_FILES: Final = 1 << 20
_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_in_root(pid: int, path: str, *, follow_last: bool = True) -> int:
    """Open a regular file of the target for reading.

    Args:
        pid: Whose mount namespace and root the path is meant in.
        path: As the target sees it; a relative path counts from its root.
        follow_last: Whether the path may end in a symbolic link.

    Returns:
        A file descriptor, close-on-exec, for the caller to close.

    Raises:
        OSError: The target is gone, there is no such file, or it is no regular file (EINVAL), or it may not be read.
    """
    return open_below(f"/proc/{pid}/root", path, follow_last=follow_last)


def open_below(root: str, path: str, *, follow_last: bool = True) -> int:
    """Open a regular file below a folder that is taken for the root; see ``open_in_root``.

    Raises:
        OSError: As ``open_in_root``.
    """
    walk = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        _walk(walk, path, follow_last)
        return open_regular(f"/proc/self/fd/{walk[-1]}")
    finally:
        for fd in walk:
            os.close(fd)


def open_regular(path: str) -> int:
    """Open a file for reading if it is a regular one; a FIFO or a device is never opened.

    Raises:
        OSError: There is no such file, or it is no regular file (EINVAL), or it may not be read.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    # O_NONBLOCK: should the name have been exchanged for a FIFO meanwhile, open() must not wait for its writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def max_open_files() -> int:
    """How many files we may have open; the limit is raised as far as it goes, for a target may map many objects."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft > 0 else _UNLIMITED_FILES


def _walk(walk: list[int], path: str, follow_last: bool) -> None:
    """Follow a path from ``walk[0]``; ``walk`` keeps descriptors of the folders on the way, the path's end last."""
    todo = _components(path)
    n_links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if len(walk) > 1:
                os.close(walk.pop())
            continue
        fd = os.open(name, _STEP, dir_fd=walk[-1])
        walk.append(fd)
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            continue
        n_links += 1
        if n_links > _MAX_LINKS or (not todo and not follow_last):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        link = os.readlink("", dir_fd=fd)
        os.close(walk.pop())
        if link.startswith("/"):
            while len(walk) > 1:
                os.close(walk.pop())
        todo += _components(link)


def _components(path: str) -> list[str]:
    """The parts of a path, last first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]
