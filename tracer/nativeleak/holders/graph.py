"""Pointers from block to block as a compressed table, and a file for those that would take too much memory.

Scope: edges come in the order of their sources, so that nothing is sorted. Above a number of edges their targets go
to a file without a name, which is mapped: the kernel keeps what fits. The pages that a walk has touched count as our
resident memory, so walks give them back as they go.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from nativeleak.errors import NativeleakError
from nativeleak.heaps.memory import Places
from nativeleak.holders.table import Blocks
from nativeleak.process.procfs import PAGE_BYTES
from nativeleak.units import format_bytes

MAX_IN_MEMORY: Final = 4 << 20
"""Edges, 4 bytes each."""
_MAX_MAPPED_BYTES: Final = 24 << 20
_BLOCKS_A_STEP: Final = 256
"""A block's edges are found anywhere in the file, and the kernel maps 16 pages for each: 16 MiB a step."""
_EDGES_A_STEP: Final = 4 << 20
_ENDLESS: Final = 1 << 62
_KEPT_FREE_BYTES: Final = 64 << 20
_IN_MEMORY_KINDS: Final = ("tmpfs", "ramfs")


class Graph:
    """Edges of all blocks: those of block v are ``targets[offsets[v]:offsets[v + 1]]``.

    Attributes:
        offsets: One more than there are blocks.
        targets: Blocks, some with the bit ``LEFTOVER``.
        blocks_a_step: After so many blocks a walk calls ``rest_if_large``.
        edges_a_step: After so many edges too.
    """

    def __init__(self, offsets: Places, targets: Blocks, mapped: mmap.mmap | None = None) -> None:
        self.offsets = offsets
        self.targets = targets
        self._mapped = mapped
        self.blocks_a_step = _BLOCKS_A_STEP if mapped is not None else _ENDLESS
        self.edges_a_step = _EDGES_A_STEP if mapped is not None else _ENDLESS

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.targets)

    def rest(self) -> None:
        """Give back what a spilled graph takes of our resident memory; the next use reads it again."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def rest_if_large(self) -> None:
        """``rest`` where all mapped files take more of our memory than a part of a walk needs."""
        if self._mapped is not None and _mapped_bytes() > _MAX_MAPPED_BYTES:
            self.rest()


def _mapped_bytes() -> int:
    """Resident memory of this process that is pages of files, its programs' too."""
    return int(Path("/proc/self/statm").read_bytes().split()[2]) * PAGE_BYTES


class EdgeStore:
    """Takes edges in ascending order of their sources.

    Args:
        n_blocks: Number of blocks.
        max_in_memory: Edges kept in memory.
        folders: Where the file may be; the usual ones if not given.

    Attributes:
        is_spilled: Whether a file was needed.
    """

    def __init__(self, n_blocks: int, max_in_memory: int = MAX_IN_MEMORY, folders: Sequence[str] | None = None) -> None:
        self._counts = np.zeros(n_blocks + 1, np.int64)
        self._parts: list[Blocks] = []
        self._n_in_memory = 0
        self._max = max_in_memory
        self._folders = folders
        self._folder = ""
        self._file = -1
        self._n_spilled = 0
        self._last = 0
        self.is_spilled = False

    def add(self, sources: Blocks, targets: Blocks) -> None:
        """Add edges; a source must not be below one of an earlier call.

        Raises:
            ValueError: It is.
            NativeleakError: No file can be made for them, or the disk is full.
        """
        if not len(sources):
            return
        low = int(sources[0])
        if low < self._last or (sources[1:] < sources[:-1]).any():
            raise ValueError(f"edges out of order: source {low} after {self._last}")
        self._last = int(sources[-1])
        counts = np.bincount(sources - np.uint32(low))
        self._counts[low + 1 : low + 1 + len(counts)] += counts
        self._parts.append(targets.copy())
        self._n_in_memory += len(targets)
        if self._n_in_memory > self._max:
            self._spill()

    def graph(self) -> Graph:
        """All edges; the store is of no use afterwards.

        Raises:
            NativeleakError: See ``add``.
        """
        offsets = np.cumsum(self._counts, out=self._counts)
        if self._file < 0:
            targets = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint32)
            self._parts = []
            return Graph(offsets, targets)
        self._spill()
        mapped = mmap.mmap(self._file, 4 * self._n_spilled, mmap.MAP_SHARED, mmap.PROT_READ)
        self.close()
        return Graph(offsets, np.frombuffer(mapped, np.uint32), mapped)

    def close(self) -> None:
        """Close the file; what is mapped of it stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _spill(self) -> None:
        if self._file < 0:
            self._folder, self._file = open_unnamed(self._folders)
            self.is_spilled = True
        n_bytes = 4 * self._n_in_memory
        free = _free_bytes(self._folder)
        if free < n_bytes + _KEPT_FREE_BYTES:
            self.close()
            raise _no_room(self._folder, free, 4 * self._n_spilled + n_bytes)
        try:
            for part in self._parts:
                _write(self._file, part)
        except OSError as error:
            self.close()
            raise _no_room(self._folder, _free_bytes(self._folder), 4 * self._n_spilled + n_bytes) from error
        self._n_spilled += self._n_in_memory
        self._parts, self._n_in_memory = [], 0

    def __del__(self) -> None:
        """A scan that ended by an error leaves no file behind."""
        self.close()


def _write(file: int, part: Blocks) -> None:
    data = np.ascontiguousarray(part).data.cast("B")
    while data:
        data = data[os.write(file, data) :]


def open_unnamed(folders: Sequence[str] | None = None) -> tuple[str, int]:
    """A file that nobody can open by a name: (its folder, its descriptor).

    Args:
        folders: Candidates; TMPDIR, /var/tmp and /tmp if not given. Folders that lie in memory come last.

    Raises:
        NativeleakError: None of them takes a file.
    """
    wanted = folders if folders is not None else [os.environ.get("TMPDIR", ""), "/var/tmp", "/tmp"]  # noqa: S108
    present = [folder for folder in dict.fromkeys(wanted) if folder and os.path.isdir(folder)]  # noqa: PTH112
    kinds = _kinds_of_mounts()
    for folder in sorted(present, key=lambda folder: kinds.get(_mount_of(folder), "") in _IN_MEMORY_KINDS):
        try:
            return folder, os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            pass  # overlays of old kernels have no files without names
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                return folder, os.dup(file.fileno())
        except OSError:
            continue
    raise NativeleakError(
        f"keeping pointers in a file failed: no folder of {', '.join(wanted)} can be written to",
        "set TMPDIR to a folder on a disk with free space",
    )


def _kinds_of_mounts() -> dict[str, str]:
    """Kind of file system by mount point."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return {words[1]: words[2] for words in (line.split() for line in lines) if len(words) > 2}


def _mount_of(folder: str) -> str:
    place = os.path.realpath(folder)
    while not os.path.ismount(place):
        place = os.path.dirname(place)  # noqa: PTH120
    return place


def _free_bytes(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _no_room(folder: str, free: int, needed: int) -> NativeleakError:
    return NativeleakError(
        f"keeping pointers in a file failed: {folder} has {format_bytes(free)} free, of which "
        f"{format_bytes(_KEPT_FREE_BYTES)} are left to others; {format_bytes(needed)} are needed so far",
        "set TMPDIR to a folder on a disk with more free space",
    )
